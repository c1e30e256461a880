"""Summarize a model over all folds, with its highly predictive genes.

See docs/models.md, "Metrics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.expression.metrics import FoldMetrics, nan_mean

N_TOP_GENES: Final = 50
"""Number of highly predictive genes in the paper."""


@dataclass(frozen=True)
class Spread:
    """Holds mean and standard deviation over folds."""

    mean: float
    """Mean; NaN without values."""
    std: float
    """Standard deviation (ddof 0); NaN with fewer than two values."""

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Return the spread of the values that are not NaN."""
        known = np.array([value for value in values if not np.isnan(value)])
        mean = float(known.mean()) if known.size else float("nan")
        return cls(mean, float(known.std()) if known.size > 1 else float("nan"))


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Holds one row of Table 1 of the paper."""

    mse: Spread
    """Mean squared error."""
    mae: Spread
    """Mean absolute error."""
    pcc_m: Spread
    """PCC(M): mean correlation over all genes."""
    pcc_h: Spread
    """PCC(H): mean correlation over ``top_genes``."""
    top_genes: NDArray[np.int64]
    """Numbers of the best genes, best first. As published, they are chosen for each model, on the
    same test folds that score them, so PCC(H) of two models is over different genes."""
    n_folds: int
    """Number of folds."""
    mse_within: Spread
    """Mean squared error without each gene's offset."""
    mse_offset: Spread
    """Mean squared offset of the genes."""


def cross_validate(folds: Sequence[FoldMetrics], n_top: int = N_TOP_GENES) -> CrossValidation:
    """Summarize the folds of a model.

    Args:
        folds: Metrics of each fold, over the same genes.
        n_top: Number of highly predictive genes.
    """
    pcc = np.stack([fold.pcc for fold in folds])  # (F, G)
    top = top_genes(mean_ranks(pcc), n_top)
    return CrossValidation(
        mse=Spread.over([fold.mse for fold in folds]),
        mae=Spread.over([fold.mae for fold in folds]),
        pcc_m=Spread.over([fold.pcc_m for fold in folds]),
        pcc_h=Spread.over([nan_mean(row[top]) for row in pcc]),
        top_genes=top,
        n_folds=len(folds),
        mse_within=Spread.over([fold.mse_within for fold in folds]),
        mse_offset=Spread.over([fold.mse_offset for fold in folds]),
    )


def mean_ranks(pcc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean rank over folds of each gene's correlation; the best rank is G.

    Args:
        pcc: Correlations (F, G). NaN gets rank 0, below every correlation.

    Returns:
        Mean ranks (G,); NaN for a gene without a correlation in any fold.

    Raises:
        ContractError: ``pcc`` is not a matrix, or is empty.
    """
    if pcc.ndim != 2 or not pcc.size:
        raise ContractError(f"ranks: correlations of shape {pcc.shape}; give (folds, genes)")
    known = ~np.isnan(pcc)
    ordered = np.argsort(np.where(known, pcc, -np.inf), axis=1, kind="stable")
    ranks = np.argsort(ordered, axis=1, kind="stable") + 1.0
    mean = np.where(known, ranks, 0.0).mean(axis=0)
    return np.where(known.any(axis=0), mean, np.nan)


def top_genes(ranks: NDArray[np.float64], count: int = N_TOP_GENES) -> NDArray[np.int64]:
    """Return the numbers of the ``count`` genes with the best mean ranks.

    The best gene is first; equal ranks are in the order of the genes. Genes of rank NaN are left
    out, even if fewer than ``count`` remain.
    """
    known = np.flatnonzero(~np.isnan(ranks))
    best = np.argsort(-ranks[known], kind="stable")[:count]
    return known[best].astype(np.int64)
