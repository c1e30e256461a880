"""Write a table of genes: one row per gene, with its pattern on the slide and its reliability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.escape import csv_cell
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.held_out import HELD_OUT, held_out_words
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.reliability import COLUMNS

if TYPE_CHECKING:
    from pandas import DataFrame

HEAD: Final = ("gene", HELD_OUT, *COLUMNS, "mean", "sd", "morans_i")
"""Columns of the table."""


def gene_frame(prediction: Prediction) -> DataFrame:
    """Return the table in memory: ``HEAD``, the most reliable genes first.

    ``heldout`` is ``supported``, ``not supported`` or ``not measured``, in which case its numbers
    are NaN. ``mean``, ``sd`` and ``morans_i`` are those of the predicted values over the spots.
    """
    import pandas as pd

    n_genes, values = len(prediction.genes), prediction.expression.astype(np.float64)
    unknown = dict.fromkeys(COLUMNS, np.full(n_genes, np.nan, np.float32))
    known = None if prediction.reliability is None else prediction.reliability.columns()
    table = pd.DataFrame(
        {
            "gene": np.array(prediction.genes, object),
            HELD_OUT: held_out_words(prediction.reliability, n_genes),
            **(unknown if known is None else known),
            "mean": values.mean(axis=0),
            "sd": values.std(axis=0),
            "morans_i": morans_i(prediction.expression, prediction.grid_rc),
        }
    )
    return table.sort_values("heldout_pcc", ascending=False, kind="stable", ignore_index=True)


def write_genes(prediction: Prediction, path: str | Path) -> None:
    """Write a UTF-8 CSV table of the genes of a prediction, atomically.

    NaN is an empty cell. A gene that a spreadsheet would run as a formula begins with ``'``.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    table = gene_frame(prediction)
    table["gene"] = table["gene"].map(csv_cell)
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary, index=False, lineterminator="\n", encoding="utf-8", float_format="%.6g"
        )


def is_own_genes(path: Path) -> bool:
    """Return True if a file has the header that ``write_genes`` writes."""
    head = (",".join(HEAD) + "\n").encode()
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


GENES: Final = FileFormat(
    "genes", ".genes.csv", "is a table of genes with their reliability", write_genes, is_own_genes
)
