"""Predictions as flat tables: one row per spot, its coordinates, then a column per gene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.origin import ORIGIN, origin_json
from triplex_deploy.outputs.prediction import Prediction

if TYPE_CHECKING:
    from pandas import DataFrame

PLACE: Final = ("spot", "array_row", "array_col", "level0_x_px", "level0_y_px")
"""Columns before the genes; ``barcode`` follows where the spots file had one."""


def to_frame(prediction: Prediction) -> DataFrame:
    """The table in memory: ``PLACE``, barcodes if any, and the genes as float32.

    Coordinates are spot centres in level-0 pixels. A gene named like one of those columns raises
    ``OutputError``.
    """
    import pandas as pd

    row, column = prediction.grid_rc.T
    x, y = prediction.level0_xy.T
    values = (np.array(prediction.spot_names, object), row, column, x, y)
    place = dict(zip(PLACE, values, strict=True))
    if prediction.barcodes:
        place["barcode"] = np.array(prediction.barcodes, object)
    for gene in prediction.genes:
        if gene in place:
            raise OutputError(f"gene {gene}: a table has a column of this name; leave the gene out")
    genes = pd.DataFrame(prediction.expression, columns=list(prediction.genes))
    return pd.concat([pd.DataFrame(place), genes], axis=1)


def write_csv(prediction: Prediction, path: str | Path) -> None:
    """Write a prediction as a UTF-8 CSV table of spots and genes, atomically.

    Values read back as the same float32; NaN is an empty cell.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    table = to_frame(prediction)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def write_parquet(prediction: Prediction, path: str | Path) -> None:
    """Write a prediction as a Parquet table of spots and genes, atomically.

    The metadata of the run are in the schema's metadata under ``triplex-deploy``.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(to_frame(prediction), preserve_index=False)
    facts = {ORIGIN: origin_json(prediction)}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **facts})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def is_own_csv(path: Path) -> bool:
    """Whether a file is a table of ours, told by its header."""
    head = (",".join(PLACE) + ",").encode()
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


def is_own_parquet(path: Path) -> bool:
    """Whether a file is a table of ours, told by its metadata."""
    from pyarrow import ArrowException, parquet

    try:
        return ORIGIN.encode() in (parquet.read_schema(path).metadata or {})
    except ArrowException:
        return False
