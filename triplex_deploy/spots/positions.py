"""Whether spot centres can be those of a slide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError


def require_inside(
    level0_xy: NDArray[np.float64], slide_size_wh: tuple[int, int] | None, labels: Sequence[str]
) -> None:
    """Raise ``SpotsError`` where a centre (N, 2) is off the slide; without its size, negative.

    ``labels`` name the spots to the user.
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
        raise SpotsError(
            f"{int((~inside).sum())} of {len(inside)} lie outside {slide}, such as {labels[first]} "
            f"at ({x:g}, {y:g}); give level-0 pixels of this very image, not of a downscaled one, "
            "and x before y"
        )


def require_distinct(positions: NDArray[np.generic], what: str, labels: Sequence[str]) -> None:
    """Raise ``SpotsError`` where two rows of ``positions`` (N, 2) are the same."""
    _, first, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    original = first[inverse.ravel()]
    repeated = np.flatnonzero(original != np.arange(len(positions)))
    if repeated.size:
        again = int(repeated[0])
        raise SpotsError(
            f"{repeated.size} repeat the {what} of another, such as {labels[int(original[again])]} "
            f"and {labels[again]}; remove or correct them"
        )
