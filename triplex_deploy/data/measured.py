"""Read the measured expression of a section, with which a prediction is compared."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import join_tables, merge_repeated_genes
from triplex_deploy.data.hest import counts_of, inferred_places, names_of_spots
from triplex_deploy.data.names import require_named, require_unique
from triplex_deploy.data.space_ranger import read_visium_tables
from triplex_deploy.data.spot_columns import kept_obs, level0_centers, rounded_places
from triplex_deploy.data.st import SUFFIXES, read_count_table
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.hdf5 import read_h5ad

if TYPE_CHECKING:
    from anndata import AnnData, Raw

logger = logging.getLogger(__name__)

SYMBOL_COLUMNS: Final = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol")
"""Columns of ``var`` that may hold gene symbols if its index holds Ensembl ids."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """Holds the measured values of the N spots of a section and G genes.

    Raises:
        DatasetError: Two spots are at the same place, for example if a file holds two sections.
    """

    genes: tuple[str, ...]
    """The G gene symbols, each once."""
    grid_rc: NDArray[np.int64]
    """Array coordinates (N, 2): row, column; each once."""
    values: Any
    """Counts or labels (N, G), a SciPy CSR array."""
    barcodes: tuple[str, ...] = ()
    """Names of the N spots, such as barcodes; empty if the file has none."""
    level0_xy: NDArray[np.float64] | None = None
    """Spot centers (N, 2): x, y in level-0 pixels; None if the file has none."""
    has_places: bool = True
    """False if the array coordinates were inferred from the centers."""

    def __post_init__(self) -> None:
        _require_one_section(self.grid_rc, self.level0_xy)

    @cached_property
    def column_of(self) -> dict[str, int]:
        """Return the column of each gene by its symbol."""
        return {gene: i for i, gene in enumerate(self.genes)}

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Return the row of each spot by its name ``<column>x<row>``."""
        return {f"{col}x{row}": i for i, (row, col) in enumerate(self.grid_rc.tolist())}

    @property
    def are_counts(self) -> bool:
        """Return True if all values are whole numbers."""
        return bool((self.values.data == np.round(self.values.data)).all())

    @property
    def library(self) -> NDArray[np.float64]:
        """Return the sum (N,) of the values of each spot over all genes."""
        return np.asarray(self.values.sum(axis=1), np.float64)

    def of(self, genes: Sequence[str]) -> NDArray[np.float64]:
        """Return the columns (N, len(genes)) of measured genes."""
        columns = self.values[:, [self.column_of[gene] for gene in genes]]
        return np.asarray(columns.toarray(), np.float64)


def read_measured(path: Path) -> Measurements:
    """Read an h5ad, a table of counts, or a Space Ranger folder.

    An h5ad has gene symbols as ``var_names``, or in a column of ``var`` as in files of cellxgene.
    It has ``obs["array_row"]`` and ``obs["array_col"]``, or centers in ``obsm["spatial"]`` from
    which they are inferred. A table (``.tsv``, ``.csv``, also ``.gz``) has a row for each spot,
    named ``<column>x<row>`` as in ``ST-cnts`` of her2st. Spots that are not selected or not in
    tissue are left out.

    Args:
        path: The file or folder.

    Returns:
        The values of one section.

    Raises:
        DatasetError: The file cannot be read, a name is missing, a spot is listed twice, or a value
            is not a number.
    """
    try:
        measured = _read(path)
    except DatasetError as error:
        if str(error).startswith(str(path)):
            raise
        raise DatasetError(f"{path}: {error}") from error
    except OSError as error:  # a folder that cannot be entered, or a name that is too long
        where = error.filename or path
        raise DatasetError(f"{where}: {error.strerror or error}; check its permissions") from error
    if not len(measured.grid_rc):
        raise DatasetError(f"{path}: has no spot; check the file")
    _require_finite(path, measured)
    return measured


def _read(path: Path) -> Measurements:
    if path.is_dir():
        table, spots = read_visium_tables(path)
        joined = join_tables(str(path), table, spots)
        return Measurements(
            joined.genes, joined.grid_rc, joined.counts, joined.spot_ids, joined.level0_xy
        )
    if path.name.lower().endswith(SUFFIXES):
        table = read_count_table(path)
        genes, counts = merge_repeated_genes(table.genes, table.counts)
        return Measurements(genes, _places(path, table.spot_ids), counts)
    return _read_h5ad(path)


def _require_one_section(grid_rc: NDArray[np.int64], level0_xy: NDArray[np.float64] | None) -> None:
    for what, places in (("array coordinates", grid_rc), ("center", level0_xy)):
        if places is None:
            continue
        _, first, count = np.unique(places, axis=0, return_index=True, return_counts=True)
        if (count > 1).any():
            a, b = places[int(first[count > 1].min())].tolist()
            raise DatasetError(
                f"{int((count - 1).sum())} spots repeat the {what} of another, the first at "
                f"({a:g}, {b:g}); give the spots of one section, each once"
            )


def _require_finite(path: Path, measured: Measurements) -> None:
    entries = measured.values.tocoo()
    wrong = np.flatnonzero(~np.isfinite(entries.data))
    if len(wrong):
        row, column = entries.row[wrong[0]], entries.col[wrong[0]]
        array_row, array_col = measured.grid_rc[row].tolist()
        raise DatasetError(
            f"{path}: {measured.genes[column]} is no number at spot {array_col}x{array_row}; "
            "correct it, or leave the spot out"
        )


def _places(path: Path, spot_ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the array (row, column) of ids such as 10x12, which name the column first."""
    found = [re.fullmatch(r"(\d{1,9})x(\d{1,9})", spot_id) for spot_id in spot_ids]
    if None in found:
        wrong = spot_ids[found.index(None)]
        raise DatasetError(
            f"{path}: spot {wrong!r} is not COLUMNxROW, such as 10x12; convert the counts to an "
            'h5ad with obs["array_row"] and obs["array_col"]'
        )
    return np.array([(int(m[2]), int(m[1])) for m in found if m], np.int64).reshape(-1, 2)


def _read_h5ad(path: Path) -> Measurements:
    table = read_h5ad(
        path,
        DatasetError,
        "file of measured counts",
        "give an h5ad, a table of counts, or a Space Ranger folder",
    )
    if table.X is None:
        raise DatasetError(f"{path}: no values in X; put the counts there")
    if "triplex" in table.uns:
        logger.warning("%s: is a prediction; the figures compare two predictions", path)
    obs = kept_obs(path, table)
    kept = obs.index.to_numpy(np.int64)
    level0_xy = level0_centers(path, table)
    if level0_xy is not None:
        level0_xy = level0_xy[kept]
        if not np.isfinite(level0_xy).all():
            raise DatasetError(f'{path}: obsm["spatial"] has a place that is no number; correct it')
    grid_rc = rounded_places(path, obs)
    has_places = grid_rc is not None
    if grid_rc is None:
        if level0_xy is None:
            raise DatasetError(
                f"{path}: no array_row and array_col in obs, and no obsm['spatial']; add array "
                "coordinates"
            )
        grid_rc = inferred_places(path, level0_xy)
    symbols, counts = _symbols_and_values(table)
    require_named(str(path), "gene", symbols)
    genes, values = merge_repeated_genes(symbols, counts[kept])
    spots = names_of_spots(table)
    require_unique(str(path), "spot", spots)
    return Measurements(
        genes, grid_rc, values, tuple(spots[i] for i in kept), level0_xy, has_places
    )


def _symbols_and_values(table: AnnData) -> tuple[tuple[str, ...], Any]:
    """Return gene symbols and values. In files of cellxgene, ``raw`` holds the raw counts."""
    raw = table.raw
    if raw is not None and {"schema_version", "citation"} & set(table.uns):
        return _symbols(raw), counts_of(raw)
    return _symbols(table), counts_of(table)


def _symbols(table: AnnData | Raw) -> tuple[str, ...]:
    """Return gene symbols: the names of the variables, or a column if the names are Ensembl ids."""
    names = tuple(map(str, table.var_names))
    if not all(re.fullmatch(r"ENS[A-Z]*G\d+(\.\d+)?", name) for name in names):
        return names
    column = next((key for key in SYMBOL_COLUMNS if key in table.var), None)
    if column is None:
        return names
    return tuple(map(str, table.var[column].astype(object)))
