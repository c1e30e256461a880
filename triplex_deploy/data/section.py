"""A tissue section with measured expression, the form that every reader of data sets returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError
from triplex_deploy.expression.genes import GeneTotals
from triplex_deploy.spots.scale import KnownArray


@dataclass(frozen=True, eq=False)
class Section:
    """Holds the N spots of a section, ordered by (row, column).

    Raises:
        DatasetError: Two spots are at the same place, the sizes of arrays differ, or the counts are
            not raw counts.
    """

    name: str
    """Name of the section."""
    patient: str
    """Patient that the section is of."""
    slide_path: Path
    """Image of the section."""
    slide_mpp: float
    """Microns per level-0 pixel."""
    counts: Any
    """Raw counts (N, G_all), a SciPy CSR array."""
    genes: tuple[str, ...]
    """Symbols of the G_all measured genes, each once."""
    grid_rc: NDArray[np.int64]
    """Array coordinates (N, 2): row, column."""
    level0_xy: NDArray[np.float64]
    """Spot centers (N, 2): x, y in level-0 pixels."""
    is_hexagonal: bool = False
    """True for a Visium lattice, where the spots of a row are two columns apart."""
    is_mpp_given: bool = False
    """True if the user gave ``slide_mpp``; the slide may name another value."""
    array: KnownArray | None = None
    """Array of the spots, if the layout of the data set says which it is."""

    def __post_init__(self) -> None:
        n_spots = len(self.grid_rc)
        if n_spots == 0:
            raise DatasetError(
                f"{self.name}: no spot has both counts and a position; check the ids"
            )
        if self.counts.shape != (n_spots, len(self.genes)) or len(self.level0_xy) != n_spots:
            raise DatasetError(
                f"{self.name}: counts {self.counts.shape}, {len(self.genes)} genes, {n_spots} "
                f"array coordinates, {len(self.level0_xy)} centers; they must agree"
            )
        if len(np.unique(self.grid_rc, axis=0)) < n_spots:
            raise DatasetError(
                f"{self.name}: two spots have the same array coordinates; remove one spot"
            )
        if not np.isfinite(self.level0_xy).all():
            raise DatasetError(f"{self.name}: a spot center is not a number; correct the positions")
        if not (np.isfinite(self.slide_mpp) and self.slide_mpp > 0):
            raise DatasetError(f"{self.name}: {self.slide_mpp} um/px; give a positive number")
        _check_raw(self.name, self.counts.data)

    @property
    def n_spots(self) -> int:
        """Return the number of spots."""
        return len(self.grid_rc)

    @property
    def spot_names(self) -> tuple[str, ...]:
        """Return the name ``<column>x<row>`` of each spot."""
        return tuple(f"{col}x{row}" for row, col in self.grid_rc.tolist())

    @property
    def library(self) -> NDArray[np.float64]:
        """Return the sum (N,) of the counts of each spot over all genes."""
        return np.asarray(self.counts.sum(axis=1), np.float64).ravel()

    def gene_totals(self) -> GeneTotals:
        """Return the total count of each gene, for gene selection."""
        totals = np.asarray(self.counts.sum(axis=0), np.float64).ravel()
        return GeneTotals(self.genes, totals, self.n_spots)

    def panel_counts(self, panel: Sequence[str]) -> NDArray[np.float64]:
        """Return dense raw counts (N, len(panel)) of a panel; a gene that is not measured is 0."""
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
            f"{name}: counts have fractions, so they are normalized already; give raw counts"
        )
