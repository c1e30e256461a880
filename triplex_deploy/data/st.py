"""Read the layout of the her2st data set: images, counts and spot files in three folders.

``ST-imgs/<patient>/<section>/*.jpg``, ``ST-cnts/<section>.tsv.gz`` (spots x genes, ids "XxY") and
``ST-spotfiles/<section>_selection.tsv`` (x and y of the array, pixel_x and pixel_y of the image).
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import CountTable, SectionMetadata, SpotTable, assemble_section
from triplex_deploy.data.names import require_named, require_unique
from triplex_deploy.data.pitch import ST_STEP_UM, mpp_from_array
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.slide_file import only_slide
from triplex_deploy.data.spot_columns import spots_as_data
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.spots.scale import ST_PITCH_UM, square

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REMEDY: Final = "copy it again"
SUFFIXES: Final = (".tsv.gz", ".tsv", ".csv.gz", ".csv")
"""Endings of tables of counts, preferred first."""
SPOT_SUFFIXES: Final = (".tsv", ".tsv.gz", ".csv", ".csv.gz")
"""Endings of tables of spots, preferred first."""


def find_st_sections(root: Path) -> dict[str, str]:
    """Return the patient, by name of the section, of each section under ``ST-imgs``.

    Raises:
        DatasetError: There is no such folder, or two sections have the same name.
    """
    images = root / "ST-imgs"
    if not images.is_dir():
        raise DatasetError(
            f"{root}: no folder ST-imgs; the layout is ST-imgs/<patient>/<section>/*.jpg, ST-cnts "
            "and ST-spotfiles"
        )
    folders = [section for section in sorted(images.glob("*/*")) if section.is_dir()]
    require_unique(str(images), "section", [section.name for section in folders])
    return {section.name: section.parent.name for section in folders}


def read_st_section(root: Path, name: str, entry: SectionEntry) -> Section:
    """Read a section. Spots that are not selected or have no counts are left out.

    Array coordinates are the rounded x (column) and y (row) of the spot file.

    Args:
        root: Folder of the data set.
        name: Name of the section.
        entry: Patient, and optionally image and mpp. Without mpp, the 200 um between rows and
            columns give the scale.

    Raises:
        DatasetError: A file is missing or damaged, or the section is not valid.
    """
    table = _counts_of(root / "ST-cnts", name)
    path = _existing(root / "ST-spotfiles", f"{name}_selection", SPOT_SUFFIXES)
    path = path or root / "ST-spotfiles" / f"{name}_selection.tsv"
    spots, true_rc = _read_spots(path)
    mpp = entry.mpp or mpp_from_array(name, true_rc, spots.level0_xy, ST_STEP_UM)
    folders = sorted((root / "ST-imgs").glob(f"*/{name}"))
    slide = entry.slide or only_slide(folders[0], name)
    array = square("ST array", ST_PITCH_UM)
    metadata = SectionMetadata(name, entry.patient, slide, mpp, False, entry.mpp is not None, array)
    return assemble_section(metadata, table, spots)


def _counts_of(folder: Path, name: str) -> CountTable:
    path = _existing(folder, name, SUFFIXES)
    if path is None:
        raise DatasetError(f"{name}: no counts {folder / name}.tsv.gz; add them")
    return read_count_table(path)


def _existing(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """Return the first file of this stem and one of the suffixes, None if there is none."""
    paths = (folder / f"{stem}{suffix}" for suffix in suffixes)
    return next((path for path in paths if path.exists()), None)


def read_count_table(path: Path) -> CountTable:
    """Read a table of spots x genes, TSV or CSV, also gzip.

    Args:
        path: The table. Its first line lists the genes, and its first column the spots.

    Returns:
        The counts; a gene may repeat.

    Raises:
        DatasetError: The table is missing, empty or damaged; a name is missing; a spot is listed
            twice; or a value is not a number.
    """
    import pandas as pd
    from scipy.sparse import csr_array

    text = read_text(path, DatasetError, "table of counts", REMEDY)
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        raise DatasetError(f"{path}: is empty; it needs a line of genes and one line per spot")
    separator = "\t" if "\t" in lines[0] else ","
    ids = tuple(_unquoted(line.partition(separator)[0]) for line in lines[1:])
    n_genes = lines[1].count(separator)
    listed = [_unquoted(gene) for gene in lines[0].split(separator)]
    if len(listed) not in (n_genes, n_genes + 1) or n_genes < 1:
        raise DatasetError(
            f"{path}: {len(listed)} columns in the first line, {n_genes + 1} in the second; "
            f"{REMEDY}"
        )
    genes = tuple(listed[-n_genes:])
    if {"pixel_x", "pixel_y"} <= {name.lower() for name in listed}:
        raise DatasetError(f"{path}: lists places of spots; give the table of their counts")
    require_unique(str(path), "spot", ids)
    require_named(str(path), "gene", genes)
    with damage_as(DatasetError, f"{path}: not a readable table", REMEDY):
        table = pd.read_csv(
            io.StringIO("\n".join(lines[1:])),
            sep=separator,
            header=None,
            index_col=False,
            usecols=range(1, n_genes + 1),
            names=range(n_genes + 1),
            low_memory=False,
        )
    return CountTable(ids, genes, csr_array(_values(path, table, ids, genes)))


def _values(
    path: Path, table: pd.DataFrame, ids: tuple[str, ...], genes: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return the values (N, G) of a table; ``DatasetError`` names the first that is no number."""
    import pandas as pd

    if len(table) != len(ids):
        raise DatasetError(f"{path}: quotes in it do not close; {REMEDY}")
    for gene, (name, column) in zip(genes, table.items(), strict=True):
        if column.dtype.kind in "iuf":
            continue
        numbers = pd.to_numeric(column, errors="coerce") if column.dtype.kind != "b" else None
        row = 0 if numbers is None else int(np.argmax(numbers.isna().to_numpy()))
        raise DatasetError(
            f"{path}: {gene} is no number at spot {ids[row]} ({table[name].iloc[row]!r}); "
            "correct it, or leave the spot out"
        )
    return table.to_numpy(np.float64)


def _unquoted(name: str) -> str:
    return name.strip().strip('"')


def _read_spots(path: Path) -> tuple[SpotTable, NDArray[np.float64]]:
    """Return the selected spots and their unrounded (row, column), which give a better scale."""
    from triplex_deploy.spots import table as columns  # imports pandas

    with spots_as_data():
        table = columns.with_known_names(path, columns.read_table(path))
        needed = ("x", "y", "pixel_x", "pixel_y")
        missing = [name for name in needed if name not in table.columns]
        if missing:
            raise DatasetError(f"{path}: no column {', '.join(missing)}; see the her2st layout")
        table = columns.kept_rows(path, table)
        if table.empty:
            raise DatasetError(f"{path}: lists no spot; copy it again")
        measured = ("new_y", "new_x") if {"new_x", "new_y"} <= set(table.columns) else ("y", "x")
        listed_rc, measured_rc = (
            np.stack([columns.number_column(path, table, name) for name in names], axis=1)
            for names in (("y", "x"), measured)
        )
        grid_rc = columns.array_places(path, table[["x", "y"]])
        level0_xy = columns.pixel_centers(path, table)
    assert grid_rc is not None  # x and y are there
    off_place = np.linalg.norm(listed_rc - grid_rc, axis=1)
    kept = _nearest_per_place(grid_rc, off_place)
    if len(kept) < len(grid_rc):
        logger.warning(
            "%s: %d spots are left out, because a nearer spot has the same rounded coordinates",
            path,
            len(grid_rc) - len(kept),
        )
    grid_rc = grid_rc[kept]
    ids = tuple(f"{col}x{row}" for row, col in grid_rc.tolist())
    return SpotTable(ids, grid_rc, level0_xy[kept]), measured_rc[kept]


def _nearest_per_place(
    grid_rc: NDArray[np.int64], off_place: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the indices, in order, of the spot nearest to each pair of array coordinates."""
    by_nearness = np.argsort(off_place, kind="stable")
    _, first = np.unique(grid_rc[by_nearness], axis=0, return_index=True)
    return np.sort(by_nearness[first])
