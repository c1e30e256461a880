"""Where the spots of a slide are, in pixels and on their array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError


@dataclass(frozen=True)
class Spots:
    """The N spots of one slide, in the order of their predictions."""

    level0_xy: NDArray[np.float64]
    """(N, 2) centres, pixels of level 0."""
    grid_rc: NDArray[np.int64]
    """(N, 2) array coordinates (row, column)."""
    layout: str
    """``grid``, ``visium`` or ``file``."""
    spot_diameter_px: float
    """Level-0 pixels: the tile side of a grid, 55 um of Visium, half the spacing of a file."""
    note: str = ""
    """One sentence for the user, such as that array coordinates were inferred."""

    @property
    def names(self) -> tuple[str, ...]:
        """``<column>x<row>`` of each spot, as the ids of ST count tables."""
        return tuple(f"{col}x{row}" for row, col in self.grid_rc.tolist())


def check_spots(spots: Spots, slide_size_wh: tuple[int, int]) -> None:
    """Raise ``SpotsError`` if there are no spots, two coincide, or a centre is off the slide."""
    if len(spots.level0_xy) == 0:
        raise SpotsError("spots: there are none; check the spots file or the layout")
    outside = _outside(spots.level0_xy, slide_size_wh)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        x, y = spots.level0_xy[first]
        width, height = slide_size_wh
        raise SpotsError(
            f"spots: {int(outside.sum())} of {len(outside)} lie outside the slide of "
            f"{width}x{height} pixels, such as {spots.names[first]} at ({x:g}, {y:g}); give "
            "level-0 pixels of this very image, not of a downscaled one, and x before y"
        )
    _require_distinct(spots, spots.grid_rc, "array position")
    _require_distinct(spots, spots.level0_xy, "pixel position")


def _outside(level0_xy: NDArray[np.float64], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    inside = (level0_xy >= 0) & (level0_xy < size_wh)  # (N, 2); NaN counts as outside
    return np.asarray(~inside.all(axis=1))


def _require_distinct(spots: Spots, positions: NDArray[np.generic], what: str) -> None:
    _, first, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[inverse.ravel()] != np.arange(len(positions)))
    if repeated.size:
        i = int(repeated[0])
        earlier = int(first[inverse.ravel()[i]])
        raise SpotsError(
            f"spots: {repeated.size} repeat the {what} of another, such as rows {earlier + 1} and "
            f"{i + 1} ({spots.names[earlier]} and {spots.names[i]}); remove or correct them"
        )
