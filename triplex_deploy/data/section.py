"""One tissue section with measured expression: the form every reader produces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError
from triplex_deploy.expression.genes import GeneTotals


@dataclass(frozen=True, eq=False)
class Section:
    """The N spots of one section, in order of (row, column); an inconsistent one is refused.

    Raises ``DatasetError`` where spots coincide, arrays disagree, or counts are not raw counts.
    """

    name: str
    patient: str
    slide_path: Path
    slide_mpp: float
    """Microns per level-0 pixel."""
    counts: Any
    """(N, G_all) raw counts, a SciPy CSR array."""
    genes: tuple[str, ...]
    """The G_all gene symbols, each once."""
    grid_rc: NDArray[np.int64]
    """(N, 2) array coordinates (row, column)."""
    level0_xy: NDArray[np.float64]
    """(N, 2) spot centres, level-0 pixels."""
    is_hexagonal: bool = False
    """Whether the array is a Visium lattice, whose columns are two apart within a row."""
    is_mpp_given: bool = False
    """Whether the user gave ``slide_mpp``, so that it may contradict the slide's own."""

    def __post_init__(self) -> None:
        n_spots = len(self.grid_rc)
        if n_spots == 0:
            raise DatasetError(
                f"{self.name}: no spot has both counts and a position; check the ids"
            )
        if self.counts.shape != (n_spots, len(self.genes)) or len(self.level0_xy) != n_spots:
            raise DatasetError(
                f"{self.name}: counts {self.counts.shape}, {len(self.genes)} genes, {n_spots} "
                f"array places, {len(self.level0_xy)} centres; they must agree"
            )
        if len(np.unique(self.grid_rc, axis=0)) < n_spots:
            raise DatasetError(f"{self.name}: two spots share an array place; keep one of them")
        if not np.isfinite(self.level0_xy).all():
            raise DatasetError(f"{self.name}: a spot centre is not a number; correct the positions")
        if not (np.isfinite(self.slide_mpp) and self.slide_mpp > 0):
            raise DatasetError(f"{self.name}: {self.slide_mpp} um/px; give a positive number")
        _check_raw(self.name, self.counts.data)

    @property
    def n_spots(self) -> int:
        return len(self.grid_rc)

    @property
    def spot_names(self) -> tuple[str, ...]:
        """``<column>x<row>`` of each spot."""
        return tuple(f"{col}x{row}" for row, col in self.grid_rc.tolist())

    @property
    def library(self) -> NDArray[np.float64]:
        """Counts over all genes of each spot, (N,)."""
        return np.asarray(self.counts.sum(axis=1), np.float64).ravel()

    def gene_totals(self) -> GeneTotals:
        """What gene selection needs of this section."""
        totals = np.asarray(self.counts.sum(axis=0), np.float64).ravel()
        return GeneTotals(self.genes, totals, self.n_spots)

    def panel_counts(self, panel: Sequence[str]) -> NDArray[np.float64]:
        """Dense raw counts (N, len(panel)) of the genes asked for; a gene not measured is 0."""
        column = {gene: i for i, gene in enumerate(self.genes)}
        present = [i for i, gene in enumerate(panel) if gene in column]
        dense = np.zeros((self.n_spots, len(panel)))
        if present:
            dense[:, present] = self.counts[:, [column[panel[i]] for i in present]].toarray()
        return dense


def _check_raw(name: str, values: NDArray[Any]) -> None:
    if values.size and not (np.isfinite(values).all() and values.min() >= 0):
        raise DatasetError(f"{name}: counts are negative or not finite; give raw counts")
    if values.size and (values != np.round(values)).any():
        raise DatasetError(
            f"{name}: counts have fractions, so they are normalised already; give raw counts"
        )
