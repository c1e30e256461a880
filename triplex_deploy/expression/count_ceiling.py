"""Find the highest correlation that the noise of counts allows: docs/models.md, "Reliability by
gene".
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.expression.labels import LabelTransform
from triplex_deploy.expression.metrics import gene_correlations

SPLITS: Final = 4
"""Random splits of the counts, whose results are averaged."""
_SEED: Final = 2024


def correlation_ceiling(
    counts: NDArray[Any],
    grid_rc: NDArray[np.int64],
    library_all: NDArray[Any],
    transform: LabelTransform,
) -> NDArray[np.float64]:
    """Return the correlation (G,) of the labels of a section with labels free of count noise.

    No prediction can be expected to correlate better with the labels. Each molecule is dealt to one
    of two halves at random. The halves of Poisson counts are independent (binomial thinning), so
    the correlation r of the labels of both halves shows what is no noise. Labels of all molecules
    would correlate with a second measurement of them by R = 2 r / (1 + r) (Spearman 1910, Brown
    1910), and with the truth by sqrt(R).

    Args:
        counts: Raw counts (N, G) of the predicted genes.
        grid_rc: Array coordinates (N, 2): row, column.
        library_all: Counts (N,) over all genes.
        transform: How labels are made of counts.

    Returns:
        Values from 0 to 1. NaN for a gene whose halves are constant, and for all genes if counts
        have fractions.
    """
    whole = np.rint(counts).astype(np.int64)
    others = np.maximum(np.rint(library_all).astype(np.int64) - whole.sum(axis=1), 0)
    if not np.array_equal(whole, counts):
        return np.full(counts.shape[1], np.nan)
    rng = np.random.default_rng(_SEED)
    found = []
    for _ in range(SPLITS):
        half, rest = rng.binomial(whole, 0.5), rng.binomial(others, 0.5)
        halves = ((half, rest), (whole - half, others - rest))
        first, second = (transform(x, grid_rc, x.sum(axis=1) + y) for x, y in halves)
        found.append(gene_correlations(first, second))
    known = ~np.isnan(found)
    total = np.where(known, found, 0).sum(axis=0)
    mean = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    between = np.maximum(mean, 0)
    ceiling: NDArray[np.float64] = np.sqrt(2 * between / (1 + between))
    return ceiling
