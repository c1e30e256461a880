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


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof 0) over folds; NaN where none is, as of a single fold's."""

    mean: float
    std: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Of the values that are not NaN."""
        known = np.array([value for value in values if not np.isnan(value)])
        mean = float(known.mean()) if known.size else float("nan")
        return cls(mean, float(known.std()) if known.size > 1 else float("nan"))


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """One row of the paper's Table 1.

    ``top_genes`` are indices into the genes, best first. They are chosen per model on the very
    test folds they are scored on, as published; PCC(H) of two models is over different genes.
    """

    mse: Spread
    mae: Spread
    pcc_m: Spread
    pcc_h: Spread
    top_genes: NDArray[np.int64]
    n_folds: int


def cross_validate(folds: Sequence[FoldMetrics], n_top: int = N_TOP_GENES) -> CrossValidation:
    """Summarise a model's folds, in each of which every gene has one correlation or NaN."""
    pcc = np.stack([fold.pcc for fold in folds])  # (F, G)
    top = top_genes(mean_ranks(pcc), n_top)
    return CrossValidation(
        mse=Spread.over([fold.mse for fold in folds]),
        mae=Spread.over([fold.mae for fold in folds]),
        pcc_m=Spread.over([fold.pcc_m for fold in folds]),
        pcc_h=Spread.over([nan_mean(row[top]) for row in pcc]),
        top_genes=top,
        n_folds=len(folds),
    )


def mean_ranks(pcc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank over folds of each gene's correlation, from ``pcc`` (F, G); the best rank is G.

    A NaN takes rank 0 in its fold, below every correlation; a gene that is NaN in every fold has
    mean rank NaN.
    """
    if pcc.ndim != 2 or not pcc.size:
        raise ContractError(f"ranks: correlations of shape {pcc.shape}; give (folds, genes)")
    known = ~np.isnan(pcc)
    ordered = np.argsort(np.where(known, pcc, -np.inf), axis=1, kind="stable")
    ranks = np.argsort(ordered, axis=1, kind="stable") + 1.0
    mean = np.where(known, ranks, 0.0).mean(axis=0)
    return np.where(known.any(axis=0), mean, np.nan)


def top_genes(ranks: NDArray[np.float64], count: int = N_TOP_GENES) -> NDArray[np.int64]:
    """Indices of the ``count`` best mean ranks, best first, ties by index.

    Genes of rank NaN are never among them, even if fewer than ``count`` then remain.
    """
    known = np.flatnonzero(~np.isnan(ranks))
    best = np.argsort(-ranks[known], kind="stable")[:count]
    return known[best].astype(np.int64)
