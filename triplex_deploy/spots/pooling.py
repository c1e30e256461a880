"""Pool bins, cells or transcripts into spots on a square or hexagonal lattice of the slide.

The lattice lies upright on the slide and starts at its top left corner, so that every point of the
slide belongs to exactly one spot, and counts are conserved. A square spot is a square of the pitch.
A hexagonal spot is all that is nearest to its center.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError
from triplex_deploy.spots.scale import KnownArray
from triplex_deploy.spots.spot_diameter import HEX_ROW

POOLED_FORMATS: Final = ("visium-hd", "xenium", "spatialdata")
"""Data that is pooled into spots."""
LATTICES: Final = ("square", "hexagonal")
DEFAULT_LATTICE: Final = "square"
DEFAULT_BIN_UM: Final = 8
BIN_SIZES_UM: Final = (8, 16)
"""Sizes of Visium HD bins that are pooled. Those of 2 um are the same counts in 16 times as many
rows as those of 8 um."""
MIN_POOL_UM: Final = 20.0
"""Smallest distance of pooled spots; less is a typing error that would fill the memory."""
MIN_TISSUE: Final = 0.5
"""A spot is kept if bins in tissue cover at least this share of it, or cells lie in at least this
share of its quarters."""


@dataclass(frozen=True)
class Pooling:
    """How points are pooled into spots.

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    pool_um: float
    """Distance of neighboring spots in microns."""
    lattice: str = DEFAULT_LATTICE
    """``square`` or ``hexagonal``."""
    kind: str | None = None
    """One of ``POOLED_FORMATS``; None finds it in the folder."""
    bin_um: int = DEFAULT_BIN_UM
    """Size of the bins of Visium HD that are pooled: 8 or 16."""
    alignment: Path | None = None
    """Xenium Explorer's alignment of the image; None takes the only one in the folder."""

    def __post_init__(self) -> None:
        if not MIN_POOL_UM <= self.pool_um < math.inf:
            raise ConfigError(f"pool_um={self.pool_um:g}: use at least {MIN_POOL_UM:g} microns")
        if self.lattice not in LATTICES:
            raise ConfigError(f"lattice {self.lattice!r}: use {' or '.join(LATTICES)}")
        if self.kind not in (None, *POOLED_FORMATS):
            raise ConfigError(f"format {self.kind!r}: not known; use {', '.join(POOLED_FORMATS)}")
        if self.bin_um not in BIN_SIZES_UM:
            raise ConfigError(f"bin={self.bin_um}: use {' or '.join(map(str, BIN_SIZES_UM))}")

    @property
    def is_hexagonal(self) -> bool:
        """True for the hexagonal lattice."""
        return self.lattice == "hexagonal"

    @property
    def area_um2(self) -> float:
        """Return the area of a spot in square microns."""
        return self.pool_um**2 * (HEX_ROW if self.is_hexagonal else 1.0)

    @property
    def array(self) -> KnownArray:
        """Return the array that the spots form."""
        steps = (HEX_ROW, 0.5) if self.is_hexagonal else (1.0, 1.0)
        step_um_rc = (steps[0] * self.pool_um, steps[1] * self.pool_um)
        return KnownArray("lattice of pooled spots", self.pool_um, step_um_rc)

    def recorded(self) -> dict[str, object]:
        """Return what the metadata of prepared data record."""
        bins = {"bin_um": self.bin_um} if self.kind == "visium-hd" else {}
        return {"pool_um": self.pool_um, "lattice": self.lattice, **bins}

    def places(self, xy_um: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the array (row, column) (N, 2) of the spot that each point (N, 2) belongs to.

        Points are (x, y) in microns from the slide's corner. In a hexagonal array the columns
        of a row are 2 apart and row + column is even, as in Space Ranger.
        """
        scaled = np.asarray(xy_um, np.float64) / self.pool_um
        if not self.is_hexagonal:
            return np.floor(scaled[:, ::-1]).astype(np.int64)
        # Even and odd rows are two rectangular lattices; the nearest point is on one of them.
        nearest = [_nearest(scaled, odd) for odd in (0, 1)]
        distance = [np.linalg.norm(scaled - _hex_xy(rc), axis=1) for rc in nearest]
        return np.where((distance[0] <= distance[1])[:, None], nearest[0], nearest[1])

    def centers_um(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the centers (N, 2), (x, y) in microns, of spots at array (row, column)."""
        if self.is_hexagonal:
            return _hex_xy(places) * self.pool_um
        return np.asarray((places[:, ::-1] + 0.5) * self.pool_um, np.float64)


def places_of_bins(pooling: Pooling, xy_um: NDArray[np.float64], bin_um: float) -> Pooled:
    """Return the spots that bins in tissue cover by half or more.

    Args:
        pooling: The lattice.
        xy_um: Centers (N, 2) of the bins in tissue, in microns from the slide's corner.
        bin_um: Side of a bin in microns.
    """
    places, spot_of, count = _unique(pooling.places(xy_um))
    return _kept(places, spot_of, count * bin_um**2 >= MIN_TISSUE * pooling.area_um2)


def places_of_cells(pooling: Pooling, xy_um: NDArray[np.float64]) -> Pooled:
    """Return the spots with cells in two or more of their four quarters.

    Args:
        pooling: The lattice.
        xy_um: Centers (N, 2) of the cells, in microns from the slide's corner.
    """
    places, spot_of, _ = _unique(pooling.places(xy_um))
    right, below = (xy_um >= pooling.centers_um(places)[spot_of]).T
    has_cell = np.zeros((len(places), 4), np.bool_)
    has_cell[spot_of, 2 * below + right] = True
    return _kept(places, spot_of, has_cell.mean(axis=1) >= MIN_TISSUE)


@dataclass(frozen=True, eq=False)
class Pooled:
    """The M spots in tissue, by (row, column), and the spot of each of N points."""

    grid_rc: NDArray[np.int64]
    """(M, 2) array (row, column)."""
    spot_of: NDArray[np.int64]
    """(N,) index of the spot of each point, -1 outside the tissue."""

    def index(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index (K,) of the spot at each array (row, column) (K, 2), -1 without one."""
        found = np.full(len(places), -1, np.int64)
        if not len(self.grid_rc):
            return found
        first, last = self.grid_rc.min(axis=0), self.grid_rc.max(axis=0)
        inside = np.flatnonzero(((places >= first) & (places <= last)).all(axis=1))
        width = last[1] - first[1] + 1
        known = (self.grid_rc - first) @ (width, 1)  # ascending, as the spots are
        wanted = (places[inside] - first) @ (width, 1)
        at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        found[inside] = np.where(known[at] == wanted, at, -1)
        return found


def _unique(
    places: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    found, inverse, count = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    return found, inverse.reshape(len(places)), count


def _kept(places: NDArray[np.int64], spot_of: NDArray[np.int64], kept: NDArray[np.bool_]) -> Pooled:
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
    return Pooled(places[kept], renumbered[spot_of])


def _nearest(scaled: NDArray[np.float64], odd: int) -> NDArray[np.int64]:
    """Return the nearest (row, column) (N, 2) among the even or the odd rows."""
    row = 2 * np.round((scaled[:, 1] / HEX_ROW - odd) / 2) + odd
    column = 2 * np.round((2 * scaled[:, 0] - odd) / 2) + odd
    return np.stack([row, column], axis=1).astype(np.int64)


def _hex_xy(places: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(places[:, ::-1] * (0.5, HEX_ROW), np.float64)
