"""Hold where the spots of a slide are, in pixels and on their array, and check them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.scale import KnownArray

MAX_SPOTS = 20_000_000
"""Most spots of a file; Visium HD has 11 million bins of 2 um."""
MAX_PLACE = 2**31 - 1
"""Largest row or column of an array; results store them in 32 bits."""


@dataclass(frozen=True)
class Spots:
    """The N spots of one slide, in the order of their predictions."""

    level0_xy: NDArray[np.float64]
    """(N, 2) centers (x, y) in level-0 pixels."""
    grid_rc: NDArray[np.int64]
    """(N, 2) array coordinates (row, column)."""
    layout: str
    """``grid``, ``visium``, ``file`` or ``pooled``."""
    spot_diameter_px: float
    """Diameter in level-0 pixels.

    It is the side of a tile for a grid, 55 um for Visium, for a file its own value or half the
    pitch of the array, and for pooled spots their distance.
    """
    note: str = ""
    """A sentence for the user, such as that array coordinates were inferred; "" if none."""
    barcodes: tuple[str, ...] = ()
    """Name of each spot in its file; empty if the file has no names."""

    array: KnownArray | None = None
    """The array, if the file shows which it is."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names ``<column>x<row>`` of the spots, as in ST count tables."""
        return tuple(f"{col}x{row}" for row, col in self.grid_rc.tolist())


def check_spots(spots: Spots, slide_size_wh: tuple[int, int]) -> None:
    """Raise ``SpotsError`` if there are no spots, two coincide, or a center is off the slide.

    Args:
        spots: The spots.
        slide_size_wh: Width and height of the slide at level 0.

    Raises:
        SpotsError: The spots cannot be used.
    """
    count = len(spots.level0_xy)
    if count == 0:
        raise SpotsError("spots: there are none; check the spots file or the layout")
    if spots.barcodes and len(spots.barcodes) != count:
        raise SpotsError(
            f"spots: {len(spots.barcodes)} barcodes for {count} spots; give one per spot or none"
        )
    labels = tuple(f"spot {i + 1} ({name})" for i, name in enumerate(spots.names))
    try:
        require_inside(spots.level0_xy, slide_size_wh, labels)
        require_32_bits(spots.grid_rc, labels)
        require_distinct(spots.grid_rc, "array position", labels)
        require_distinct(spots.level0_xy, "pixel position", labels)
    except SpotsError as error:
        raise SpotsError(f"spots: {error}") from error


def require_inside(
    level0_xy: NDArray[np.float64], slide_size_wh: tuple[int, int] | None, labels: Sequence[str]
) -> None:
    """Raise ``SpotsError`` if a center (N, 2) is outside the slide.

    Without ``slide_size_wh``, only negative and non-finite centers are refused. ``labels`` name
    the spots in the message.
    """
    if slide_size_wh is None:
        slide, size = "the slide", (np.inf, np.inf)
    else:
        width, height = size = slide_size_wh
        slide = f"the slide of {width}x{height} pixels"
    within = (level0_xy >= 0) & (level0_xy < size)  # (N, 2); NaN counts as outside
    inside = np.asarray(within.all(axis=1))
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        x, y = level0_xy[first]
        swapped = ((level0_xy[:, ::-1] >= 0) & (level0_xy[:, ::-1] < size)).all(axis=1)
        remedy = (
            f"with x and y exchanged, all {len(inside)} lie inside: exchange the two columns"
            if swapped.all()
            else "give level-0 pixels of this image, not of a smaller copy, and x before y"
        )
        raise SpotsError(
            f"{int((~inside).sum())} of {len(inside)} lie outside {slide}, such as {labels[first]} "
            f"at ({x:g}, {y:g}); {remedy}"
        )


def require_32_bits(grid_rc: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Raise ``SpotsError`` if a row or column (N, 2) does not fit in 32 bits.

    ``labels`` name the spots in the message.
    """
    beyond = np.flatnonzero((np.abs(grid_rc) > MAX_PLACE).any(axis=1))
    if beyond.size:
        first = int(beyond[0])
        raise SpotsError(
            f"{labels[first]} is at row {grid_rc[first, 0]} and column {grid_rc[first, 1]}, beyond "
            "any array of spots; correct its array coordinates"
        )


def require_distinct(positions: NDArray[np.generic], what: str, labels: Sequence[str]) -> None:
    """Raise ``SpotsError`` if two rows of ``positions`` (N, 2) are equal.

    ``what`` names the positions in the message, and ``labels`` the spots.
    """
    _, first, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.ravel()]
    repeated = np.flatnonzero(original != np.arange(len(positions)))
    if repeated.size:
        again = int(repeated[0])
        raise SpotsError(
            f"{repeated.size} repeat the {what} of another, such as {labels[int(original[again])]} "
            f"and {labels[again]}; remove or correct them"
        )
