"""Infer the array coordinates of spots from their pixel positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError

REMEDY = "add the columns array_row and array_col"
FEW = 9
"""Fewer spots than this can look like a lattice by chance, so the order must be sharper."""
NEIGHBOR_REACH = 1.25
"""Lattice neighbors lie within this many median spacings; a square's diagonal is at 1.41."""
MIN_ORDER = 0.5
"""Least order of a lattice."""
MIN_ORDER_OF_FEW = 0.85
"""Least order of a lattice with fewer than ``FEW`` spots."""
MIN_ORDER_LEAD = 0.2
"""How much better one of both symmetries must fit than the other.

The order is how sharply the directions of neighbors repeat every 90 or 60 degrees; 1 is exact."""
STEP_TOLERANCE = 0.35
"""A displacement within this fraction of the spacing of a lattice step is that step."""
PLACE_TOLERANCE = 0.3
"""How far, in steps, a separate group of spots may lie off the lattice of the others."""
MAX_TILT = np.deg2rad(20)
"""A line tilted more than this may be a diagonal, or a row of a hexagonal array."""
WIDTH_TOLERANCE = 0.3
"""How far, in steps, a spot may lie beside the line."""
LINE_STEP_TOLERANCE = 0.25
"""How far, in steps, the distance of two spots may be from a whole number of steps."""
NEAR = 1.5
"""Gaps up to this many times the smallest are one step."""


@dataclass(frozen=True)
class Lattice:
    """Array coordinates of N spots and the kind of their lattice.

    Columns grow to the right and rows downwards. Hexagonal coordinates follow Space Ranger:
    columns of a row are 2 apart and row + column is even; if the rows of the array are
    vertical in the image, the array counts as turned by 90 degrees (columns grow downwards, rows to
    the left), never as mirrored.
    """

    grid_rc: NDArray[np.int64]
    """(N, 2) (row, column), starting at 0."""
    kind: str
    """``square`` or ``hexagonal``."""


def infer_lattice(level0_xy: NDArray[np.float64]) -> Lattice:
    """Infer (row, column) from centers (N, 2) on a square or hexagonal lattice.

    Neighbors are linked step by step from the best matching pairs on, so that slow drift and
    jitter do not add up; groups without a link are placed by a fit to the rest. A single row or
    column counts as square. Raises ``SpotsError`` if the lattice or a position on it is ambiguous.
    """
    if len(level0_xy) == 1:
        return Lattice(np.zeros((1, 2), np.int64), "square")
    line_rc = infer_line(level0_xy)
    if line_rc is not None:
        return Lattice(line_rc, "square")
    pairs, spacing = _close_pairs(level0_xy)
    is_hex, angle = _symmetry(level0_xy, pairs)
    basis = _basis(level0_xy, pairs, spacing, is_hex, angle)
    steps = _pair_steps(level0_xy, pairs, spacing, basis, is_hex)
    uv = _connect(level0_xy, *steps)
    grid_rc = _to_grid_rc(uv, is_hex)
    if len(np.unique(grid_rc, axis=0)) < len(grid_rc):
        raise SpotsError(f"several spots fall on one place of the inferred lattice; {REMEDY}")
    return Lattice(grid_rc, "hexagonal" if is_hex else "square")


def infer_line(level0_xy: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return (row, column) of two or more centers (N, 2) on one line, or None if on no line.

    Gaps of whole steps are kept. Raises ``SpotsError`` if the line is slanted or its steps are
    uneven, since the array is then unknown.
    """
    centered = level0_xy - level0_xy.mean(axis=0)
    direction = np.linalg.svd(centered, full_matrices=False)[2][0]
    axis = int(np.argmax(np.abs(direction)))  # 0: along x, a row; 1: along y, a column
    direction = direction * np.sign(direction[axis])
    along = centered @ direction
    beside = np.abs(centered @ (-direction[1], direction[0]))
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if gaps.min() <= 0:
        return None
    step_px = float(np.median(gaps[gaps <= NEAR * gaps.min()]))
    if beside.max() > WIDTH_TOLERANCE * step_px:
        return None
    steps = np.round(gaps / step_px)
    uneven = bool((np.abs(gaps / step_px - steps) > LINE_STEP_TOLERANCE).any())
    if uneven or np.arccos(min(1.0, float(direction[axis]))) > MAX_TILT:
        raise SpotsError(
            f"the {len(level0_xy)} spots lie on one {'uneven' if uneven else 'slanted'} line, "
            "so their lattice is not known; give at least 4 neighbors that are not on one "
            "line, or add the columns array_row and array_col"
        )
    grid_rc = np.zeros((len(level0_xy), 2), np.int64)
    grid_rc[order[1:], 1 - axis] = np.cumsum(steps).astype(np.int64)
    return grid_rc


def _close_pairs(xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    from scipy.spatial import KDTree

    tree = KDTree(xy)
    # The nearest neighbor alone would be too close under jitter. Inside a lattice four neighbors
    # are one spacing away; of few spots, most lie at the edge and have two.
    neighbors = min(2 if len(xy) < FEW else 4, len(xy) - 1)
    spacing = float(np.median(tree.query(xy, k=neighbors + 1)[0][:, 1:]))
    if spacing <= 0:
        raise SpotsError("several spots share one pixel position; remove the duplicates")
    for _ in range(3):  # narrows down where narrow strips of spots start too wide
        pairs: NDArray[np.int64] = tree.query_pairs(NEIGHBOR_REACH * spacing, output_type="ndarray")
        lengths = np.linalg.norm(xy[pairs[:, 1]] - xy[pairs[:, 0]], axis=1)
        spacing = float(np.median(lengths)) if len(pairs) else spacing
    return pairs, spacing


def _symmetry(xy: NDArray[np.float64], pairs: NDArray[np.int64]) -> tuple[bool, float]:
    """Return whether the lattice is hexagonal, and the axis nearest to +x in radians."""
    step = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    angles = np.arctan2(step[:, 1], step[:, 0])
    square, hexagonal = (np.exp(1j * fold * angles).mean() for fold in (4, 6))
    lead = abs(abs(square) - abs(hexagonal))
    least = MIN_ORDER_OF_FEW if len(xy) < FEW else MIN_ORDER
    if max(abs(square), abs(hexagonal)) < least or lead < MIN_ORDER_LEAD:
        few = "give at least 4 neighbors that are not on one line, or " if len(xy) < FEW else ""
        raise SpotsError(
            f"the {len(xy)} spots form no clear square or hexagonal lattice; {few}{REMEDY}"
        )
    is_hex = bool(abs(hexagonal) > abs(square))
    return is_hex, float(np.angle(hexagonal) / 6 if is_hex else np.angle(square) / 4)


def _basis(
    xy: NDArray[np.float64],
    pairs: NDArray[np.int64],
    spacing: float,
    is_hex: bool,
    angle: float,
) -> NDArray[np.float64]:
    """Return the step along a row (u) and to the next row (v), in pixels, (2, 2).

    Of a hexagonal lattice, the rows are the axis nearest to horizontal or vertical.
    """
    turn = np.pi / 3 if is_hex else np.pi / 2
    if is_hex and abs(angle) > np.pi / 12:
        angle += turn if angle > 0 else 2 * turn  # the axis nearest to +y
    directions = (angle, angle + turn)
    step = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    basis = []
    for direction in directions:
        ideal = spacing * np.array([np.cos(direction), np.sin(direction)])
        sign = np.sign(step @ ideal)[:, None]
        near = np.linalg.norm(step * sign - ideal, axis=1) < STEP_TOLERANCE * spacing
        basis.append((step * sign)[near].mean(axis=0) if near.any() else ideal)
    return np.array(basis)


def _pair_steps(
    xy: NDArray[np.float64],
    pairs: NDArray[np.int64],
    spacing: float,
    basis: NDArray[np.float64],
    is_hex: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return pairs one lattice step apart, that step in (u, v), and its misfit in pixels."""
    units = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]] + ([[1, -1], [-1, 1]] if is_hex else []))
    step = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    misfits = np.linalg.norm(step[:, None] - (units @ basis)[None], axis=2)  # (P, units)
    best = misfits.argmin(axis=1)
    misfit = misfits[np.arange(len(pairs)), best]
    near = misfit < STEP_TOLERANCE * spacing
    return pairs[near], units[best[near]], misfit[near]


def _connect(
    xy: NDArray[np.float64],
    pairs: NDArray[np.int64],
    steps: NDArray[np.int64],
    misfit: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return (u, v) of every spot, (N, 2)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import (
        breadth_first_order,
        connected_components,
        minimum_spanning_tree,
    )

    n = len(xy)
    graph = coo_matrix((misfit + 1.0, (pairs[:, 0], pairs[:, 1])), (n, n)).tocsr()
    tree = minimum_spanning_tree(graph)
    groups, group = connected_components(tree, directed=False)
    step_of = {(int(a), int(b)): step for (a, b), step in zip(pairs, steps, strict=True)}
    uv = np.zeros((n, 2), np.int64)
    for number in range(groups):
        order, before = breadth_first_order(tree, np.flatnonzero(group == number)[0], False)
        for spot in order[1:].tolist():
            origin = int(before[spot])
            forward = step_of.get((origin, spot))
            uv[spot] = uv[origin] + (-step_of[spot, origin] if forward is None else forward)
    wrong = (uv[pairs[:, 1]] - uv[pairs[:, 0]] != steps).any(axis=1)
    if wrong.any():
        raise SpotsError(f"the lattice of the spots contradicts itself in places; {REMEDY}")
    return _place_groups(xy, uv, group)


def _place_groups(
    xy: NDArray[np.float64], uv: NDArray[np.int64], group: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Shift each group, largest first, onto the lattice fitted to the groups before it."""
    uv = uv.copy()
    by_size = np.argsort(-np.bincount(group), kind="stable")
    placed = group == by_size[0]
    for number in by_size[1:].tolist():
        members = group == number
        design = np.column_stack([uv[placed], np.ones(placed.sum())])
        fit, _, rank, _ = np.linalg.lstsq(design, xy[placed])
        if rank < 3:
            raise SpotsError(f"too few neighboring spots to infer the lattice; {REMEDY}")
        expected = (xy[members] - fit[2]) @ np.linalg.inv(fit[:2])
        shift = (expected - uv[members]).mean(axis=0)
        if np.abs(shift - np.round(shift)).max() > PLACE_TOLERANCE:
            raise SpotsError(
                f"{int(members.sum())} spots lie apart and off the lattice of the others; {REMEDY}"
            )
        uv[members] += np.round(shift).astype(np.int64)
        placed |= members
    return uv


def _to_grid_rc(uv: NDArray[np.int64], is_hex: bool) -> NDArray[np.int64]:
    columns = 2 * uv[:, 0] + uv[:, 1] if is_hex else uv[:, 0]
    grid_rc = np.stack([uv[:, 1], columns], axis=1)
    grid_rc -= grid_rc.min(axis=0)
    if is_hex:
        grid_rc[:, 1] += grid_rc[0].sum() % 2
    return grid_rc
