"""Array coordinates of spots on one line: a single row or column of a square array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError

MAX_TILT = np.deg2rad(20)
"""A line at a larger angle to both sides of the image may be a diagonal, or of a hexagonal array"""
WIDTH_TOLERANCE = 0.3
"""How far, in steps, a spot may lie beside the line."""
STEP_TOLERANCE = 0.25
"""How far, in steps, the distance of two spots may be from a whole number of steps."""
NEAR = 1.5
"""Gaps up to this many times the smallest are one step."""


def infer_line(level0_xy: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """(row, column) of two or more centres (N, 2) on one line, None where they are on none.

    Gaps of whole steps are kept. Raises ``SpotsError`` where the line is slanted or its steps are
    uneven, for then it does not tell the array.
    """
    centred = level0_xy - level0_xy.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    axis = int(np.argmax(np.abs(direction)))  # 0: along x, a row; 1: along y, a column
    direction = direction * np.sign(direction[axis])
    along = centred @ direction
    beside = np.abs(centred @ (-direction[1], direction[0]))
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if gaps.min() <= 0:
        return None
    step_px = float(np.median(gaps[gaps <= NEAR * gaps.min()]))
    if beside.max() > WIDTH_TOLERANCE * step_px:
        return None
    steps = np.round(gaps / step_px)
    uneven = bool((np.abs(gaps / step_px - steps) > STEP_TOLERANCE).any())
    if uneven or np.arccos(min(1.0, float(direction[axis]))) > MAX_TILT:
        raise SpotsError(
            f"the {len(level0_xy)} spots lie on one {'uneven' if uneven else 'slanted'} line, "
            "which does not tell their lattice; give at least 4 neighbours that are not on one "
            "line, or add the columns array_row and array_col"
        )
    grid_rc = np.zeros((len(level0_xy), 2), np.int64)
    grid_rc[order[1:], 1 - axis] = np.cumsum(steps).astype(np.int64)
    return grid_rc
