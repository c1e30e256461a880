"""Measured expression of one section, to compare a prediction with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import join_tables, merge_repeated_genes
from triplex_deploy.data.space_ranger import read_visium_tables
from triplex_deploy.data.st import read_count_table
from triplex_deploy.errors import DatasetError


@dataclass(frozen=True, eq=False)
class Measurements:
    """Values (N, G), a SciPy sparse array, of spots at ``grid_rc`` (N, 2) and of ``genes``."""

    genes: tuple[str, ...]
    grid_rc: NDArray[np.int64]
    values: Any

    @cached_property
    def column_of(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.genes)}

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Rows by spot name, ``<column>x<row>``."""
        return {f"{col}x{row}": i for i, (row, col) in enumerate(self.grid_rc.tolist())}

    @property
    def are_counts(self) -> bool:
        """Whether all values are whole numbers."""
        return bool((self.values.data == np.round(self.values.data)).all())

    @property
    def library(self) -> NDArray[np.float64]:
        """Total (N,) of each spot over all genes."""
        return np.asarray(self.values.sum(axis=1), np.float64)

    def of(self, genes: Sequence[str]) -> NDArray[np.float64]:
        """The columns (N, len(genes)) of measured genes."""
        columns = self.values[:, [self.column_of[gene] for gene in genes]]
        return np.asarray(columns.toarray(), np.float64)


def read_measured(path: Path) -> Measurements:
    """Read an h5ad, a table of counts (``.tsv``, ``.tsv.gz``), or a Space Ranger folder.

    An h5ad has ``obs["array_row"]``, ``obs["array_col"]`` and gene symbols as ``var_names``. A
    table has spots ``<column>x<row>`` as rows, as ``ST-cnts`` of her2st. Raises ``DatasetError``.
    """
    measured = _read(path)
    _require_finite(path, measured)
    return measured


def _read(path: Path) -> Measurements:
    if path.is_dir():
        table, spots = read_visium_tables(path)
        joined = join_tables(path.name, table, spots)
        return Measurements(joined.genes, joined.grid_rc, joined.counts)
    if path.name.endswith((".tsv", ".tsv.gz")):
        table = read_count_table(path)
        genes, counts = merge_repeated_genes(table.genes, table.counts)
        return Measurements(genes, _places(path, table.spot_ids), counts)
    return _read_h5ad(path)


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
    """Array (row, column) by ids such as 10x12, which name the column first."""
    found = [re.fullmatch(r"(\d+)x(\d+)", spot_id) for spot_id in spot_ids]
    if None in found:
        wrong = spot_ids[found.index(None)]
        raise DatasetError(
            f"{path}: spot {wrong!r} is not COLUMNxROW, such as 10x12; convert the counts to an "
            'h5ad with obs["array_row"] and obs["array_col"]'
        )
    return np.array([(int(m[2]), int(m[1])) for m in found if m], np.int64).reshape(-1, 2)


def _read_h5ad(path: Path) -> Measurements:
    import anndata
    from scipy.sparse import csr_array, issparse

    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{path}: not a readable h5ad ({error}); give an h5ad, a .tsv of counts, or a Space "
            "Ranger folder"
        ) from error
    if not {"array_row", "array_col"} <= set(table.obs):
        raise DatasetError(f"{path}: no array_row and array_col in obs; add array coordinates")
    grid_rc = np.round(table.obs[["array_row", "array_col"]].to_numpy(np.float64)).astype(np.int64)
    if table.X is None:
        raise DatasetError(f"{path}: no values in X; put the counts there")
    values = csr_array(table.X if issparse(table.X) else np.asarray(table.X, np.float64))
    return Measurements(tuple(map(str, table.var_names)), grid_rc, values)
