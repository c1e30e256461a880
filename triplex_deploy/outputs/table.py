"""Write predictions as flat tables: one row per spot, its coordinates, then the genes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.escape import csv_cell
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.held_out import HELD_OUT, held_out_words
from triplex_deploy.outputs.origin import ORIGIN, origin_json
from triplex_deploy.outputs.prediction import Prediction

if TYPE_CHECKING:
    from pandas import DataFrame

PLACE: Final = ("spot", "array_row", "array_col", "level0_x_px", "level0_y_px")
"""Columns before the genes; ``barcode`` follows if the spots have barcodes."""


def to_frame(prediction: Prediction) -> DataFrame:
    """Return the table in memory: ``PLACE``, barcodes if any, and the genes as float32.

    Coordinates are spot centers in level-0 pixels. Raises ``OutputError`` if a gene has the name
    of another column.
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

    Values read back as the same float32; NaN is an empty cell. A barcode or gene that a spreadsheet
    would run as a formula begins with ``'``.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    table = to_frame(prediction).rename(columns=csv_cell)
    if prediction.barcodes:
        table["barcode"] = table["barcode"].map(csv_cell)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def write_parquet(prediction: Prediction, path: str | Path) -> None:
    """Write a prediction as a Parquet table of spots and genes, atomically.

    The metadata of the run are in the schema's metadata under ``triplex-deploy``, and units and
    reliability in the metadata of each gene's column.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(to_frame(prediction), preserve_index=False)
    of_gene = _gene_metadata(prediction)
    fields = [
        field.with_metadata(of_gene[field.name]) if field.name in of_gene else field
        for field in table.schema
    ]
    table = table.cast(pa.schema(fields, table.schema.metadata))
    metadata = {**(table.schema.metadata or {}), ORIGIN: origin_json(prediction)}
    table = table.replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def _gene_metadata(prediction: Prediction) -> dict[str, dict[str, str]]:
    """Return the units and the reliability of each gene as text."""
    words = held_out_words(prediction.reliability, len(prediction.genes))
    found = {
        gene: {"units": prediction.units, HELD_OUT: str(word)}
        for gene, word in zip(prediction.genes, words, strict=True)
    }
    columns = {} if prediction.reliability is None else prediction.reliability.columns()
    for name, values in columns.items():
        for gene, value in zip(prediction.genes, values.tolist(), strict=True):
            found[gene][name] = f"{value:.4g}"
    return found


def is_own_csv(path: Path) -> bool:
    """Return True if a file has the header that ``write_csv`` writes."""
    head = (",".join(PLACE) + ",").encode()
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


def is_own_parquet(path: Path) -> bool:
    """Return True if the metadata of a Parquet file names this package."""
    from pyarrow import ArrowException, parquet

    try:
        return ORIGIN.encode() in (parquet.read_schema(path).metadata or {})
    except ArrowException:
        return False


CSV: Final = FileFormat("csv", ".csv", "is a table of spots and genes", write_csv, is_own_csv)
PARQUET: Final = FileFormat(
    "parquet", ".parquet", "is the same table", write_parquet, is_own_parquet
)
