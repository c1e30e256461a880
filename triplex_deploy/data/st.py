"""The layout of the her2st dataset: images, counts and spot files in three folders.

``ST-imgs/<patient>/<section>/*.jpg``, ``ST-cnts/<section>.tsv.gz`` (spots x genes, ids "XxY") and
``ST-spotfiles/<section>_selection.tsv`` (x and y of the array, pixel_x and pixel_y of the image).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import CountTable, SectionFacts, SpotTable, assemble_section
from triplex_deploy.data.pitch import ST_STEP_UM, mpp_from_array
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry
from triplex_deploy.data.slide_file import only_slide
from triplex_deploy.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def find_st_sections(root: Path) -> dict[str, str]:
    """Names of the sections under ``ST-imgs`` and the patient folder each lies in."""
    images = root / "ST-imgs"
    if not images.is_dir():
        raise DatasetError(
            f"{root}: no folder ST-imgs; the layout is ST-imgs/<patient>/<section>/*.jpg, ST-cnts "
            "and ST-spotfiles"
        )
    return {
        section.name: section.parent.name
        for section in sorted(images.glob("*/*"))
        if section.is_dir()
    }


def read_st_section(root: Path, name: str, entry: SectionEntry) -> Section:
    """Read one section; spots without counts, and counts without a spot, are left out.

    Array coordinates are the rounded x (column) and y (row) of the spot file. Without a given mpp
    the array's 200 um give the scale.
    """
    table = _counts_of(root / "ST-cnts", name)
    path = root / "ST-spotfiles" / f"{name}_selection.tsv"
    spots, true_rc = _read_spots(path)
    mpp = entry.mpp or mpp_from_array(name, true_rc, spots.level0_xy, ST_STEP_UM)
    folders = sorted((root / "ST-imgs").glob(f"*/{name}"))
    slide = entry.slide or only_slide(folders[0], name)
    facts = SectionFacts(name, entry.patient, slide, mpp, is_hexagonal=False)
    return assemble_section(facts, table, spots)


def _counts_of(folder: Path, name: str) -> CountTable:
    path = next(
        (p for p in (folder / f"{name}.tsv.gz", folder / f"{name}.tsv") if p.exists()), None
    )
    if path is None:
        raise DatasetError(f"{name}: no counts {folder / name}.tsv.gz; add them")
    return read_count_table(path)


def read_count_table(path: Path) -> CountTable:
    """Read a TSV of spots x genes with spot ids first; raises ``DatasetError``."""
    from scipy.sparse import csr_array

    table = _read_tsv(path, index_col=0)
    try:
        counts = csr_array(table.to_numpy(np.float64))
    except ValueError as error:
        raise DatasetError(f"{path}: a count is not a number ({error}); correct it") from error
    names = _read_tsv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    genes = tuple(names.iloc[0])[-counts.shape[1] :]  # a table's columns would be told apart
    return CountTable(tuple(map(str, table.index)), genes, counts)


def _read_spots(path: Path) -> tuple[SpotTable, NDArray[np.float64]]:
    """The spots, and their unrounded (row, column), which tell the scale better."""
    table = _read_tsv(path)
    missing = [name for name in ("x", "y", "pixel_x", "pixel_y") if name not in table.columns]
    if missing:
        raise DatasetError(f"{path}: no column {', '.join(missing)}; see the her2st layout")
    measured = ("new_y", "new_x") if {"new_x", "new_y"} <= set(table.columns) else ("y", "x")
    listed_rc = _numbers(path, table, ("y", "x"))
    grid_rc = np.round(listed_rc).astype(np.int64)
    off_place = np.linalg.norm(listed_rc - grid_rc, axis=1)
    kept = _nearest_per_place(grid_rc, off_place)
    if len(kept) < len(grid_rc):
        logger.warning(
            "%s: %d spots round to a place that a nearer one holds; left out",
            *(path, len(grid_rc) - len(kept)),
        )
    grid_rc = grid_rc[kept]
    ids = tuple(f"{col}x{row}" for row, col in grid_rc.tolist())
    spots = SpotTable(ids, grid_rc, _numbers(path, table, ("pixel_x", "pixel_y"))[kept])
    return spots, _numbers(path, table, measured)[kept]


def _nearest_per_place(
    grid_rc: NDArray[np.int64], off_place: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Indices, in order, of the spot nearest to each array place."""
    by_nearness = np.argsort(off_place, kind="stable")
    _, first = np.unique(grid_rc[by_nearness], axis=0, return_index=True)
    return np.sort(by_nearness[first])


def _numbers(path: Path, table: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    try:
        values = table[list(names)].to_numpy(np.float64)
    except ValueError as error:
        raise DatasetError(f"{path}: {' and '.join(names)} are not numbers ({error})") from error
    if not np.isfinite(values).all():
        raise DatasetError(f"{path}: {' or '.join(names)} is missing for a spot; correct it")
    return values


def _read_tsv(path: Path, **options: Any) -> pd.DataFrame:
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_csv(path, sep="\t", **options)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; add it") from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: not a readable TSV ({error}); copy it again") from error
    return table
