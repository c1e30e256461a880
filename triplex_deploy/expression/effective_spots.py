"""Count how many independent spots a correlation rests on: docs/models.md, "Reliability by gene".

Neighboring spots are alike, so N spots say less than N independent spots would.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

REACH: Final = 10
"""Greatest distance on the array at which spots are compared, in rows or columns."""
_LARGEST_RASTER: Final = 64
"""An array with more places than these many per spot is not laid out; it has hardly neighbors."""


def effective_spots(
    first: NDArray[np.floating], second: NDArray[np.floating], grid_rc: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the effective number (G,) of spots of the correlation of two values of each gene.

    After Clifford, Richardson and Hémon (Biometrics 1989): N / (1 + Σ_d n_d a_d b_d), where a_d and
    b_d are the autocorrelations of the two values at the distance d, and n_d is the mean number of
    spots at this distance from a spot. Distances are rounded to whole rows. The sum ends at
    ``REACH``, or before the first distance at which the product is not positive.

    Args:
        first: Values (N, G) of the spots of a section.
        second: The other values (N, G) of the same spots.
        grid_rc: Array coordinates (N, 2): row, column.

    Returns:
        Numbers from 1 to N. It is N for a gene that is constant.
    """
    n_spots, n_genes = first.shape
    corner = grid_rc - grid_rc.min(axis=0)
    shape = corner.max(axis=0) + 1
    if int(shape.prod()) > _LARGEST_RASTER * n_spots:
        return np.full(n_genes, float(n_spots))
    present = np.zeros((*shape, 1))
    present[tuple(corner.T)] = 1
    laid = [_lay_out(values, corner, shape) for values in (first, second)]
    variance = [np.square(raster).sum(axis=(0, 1)) for raster in laid]
    inflation, going_on = np.ones(n_genes), np.ones(n_genes, bool)
    for steps in _rings():
        pairs, products = 0.0, np.zeros((2, n_genes))
        for step in steps:
            ours, theirs = _overlap(shape, step)
            pairs += float((present[ours] * present[theirs]).sum())
            for row, raster in enumerate(laid):
                products[row] += np.einsum("rcg,rcg->g", raster[ours], raster[theirs])
        if not pairs:
            continue
        correlation = [
            np.divide(product * n_spots, pairs * total, out=np.zeros(n_genes), where=total > 0)
            for product, total in zip(products, variance, strict=True)
        ]
        alike = correlation[0] * correlation[1]
        going_on &= (correlation[0] > 0) & (correlation[1] > 0)
        # each pair stands in the steps once, and counts for both of its spots
        inflation += np.where(going_on, 2 * pairs / n_spots * alike, 0)
        if not going_on.any():
            break
    effective: NDArray[np.float64] = np.maximum(n_spots / inflation, 1)
    return effective


def _lay_out(
    values: NDArray[np.floating], corner: NDArray[np.int64], shape: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return deviations from the mean on the array, (rows, columns, G); 0 without a spot."""
    raster = np.zeros((*shape, values.shape[1]))
    raster[tuple(corner.T)] = values - values.mean(axis=0, dtype=np.float64)
    return raster


def _rings() -> Iterator[list[tuple[int, int]]]:
    """Yield the steps (row, column) of each rounded distance, one of each two opposite steps."""
    span = range(-REACH, REACH + 1)
    steps = [(r, c) for r in span for c in span if (r, c) > (0, 0)]
    for distance in range(1, REACH + 1):
        yield [step for step in steps if round(float(np.hypot(*step))) == distance]


def _overlap(
    shape: NDArray[np.int64], step: tuple[int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the parts of a raster whose places are one step apart."""
    ours, theirs = [], []
    for length, by in zip(shape.tolist(), step, strict=True):
        ours.append(slice(max(0, -by), max(0, length - max(by, 0))))
        theirs.append(slice(max(0, by), max(0, length + min(by, 0))))
    return tuple(ours), tuple(theirs)
