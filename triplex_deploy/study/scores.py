"""Compute the scores of a study's tables: over seeds, over folds, and between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.expression import FoldMetrics, cross_validate, top_genes
from triplex_deploy.expression.cross_validation import N_TOP_GENES, Spread, mean_ranks
from triplex_deploy.expression.metrics import nan_mean

METRIC_KEYS: Final = ("mse", "mae", "pcc_m", "pcc_h", "mse_within", "mse_offset")
"""Metrics of every table; docs/models.md, "Metrics", defines them."""


@dataclass(frozen=True, eq=False)
class ModelScores:
    """Scores of one model on one data set, averaged over seeds."""

    genes: tuple[str, ...]
    """Symbols of the G genes."""
    folds: Mapping[int, FoldMetrics]
    """Metrics by the fold's number; correlations are in the order of ``genes``."""

    @property
    def pcc(self) -> NDArray[np.float64]:
        """Return correlations (F, G); NaN if a fold lacks the gene or it does not vary."""
        return np.stack([fold.pcc for fold in self.folds.values()])

    def ranked(self) -> NDArray[np.float64]:
        """Return the mean rank (G,) of each gene over folds."""
        return mean_ranks(self.pcc)

    def values(self, key: str, top: NDArray[np.int64]) -> dict[int, float]:
        """Return one metric by fold; ``pcc_h`` is over the genes of the indices ``top``."""
        if key == "pcc_h":
            return {number: nan_mean(fold.pcc[top]) for number, fold in self.folds.items()}
        return {number: float(getattr(fold, key)) for number, fold in self.folds.items()}

    def top(self) -> NDArray[np.int64]:
        """Return the indices of the genes that the model predicts best, best first."""
        return top_genes(self.ranked(), N_TOP_GENES)

    def by_fold(self) -> dict[str, dict[int, float]]:
        """Return every metric by fold."""
        return {key: self.values(key, self.top()) for key in METRIC_KEYS}


def score_row(runs: Mapping[int, Sequence[Mapping[str, Any]]], row: str = "model") -> ModelScores:
    """Return scores from the metrics of each fold and seed.

    Seeds are averaged within their fold first: error by error and gene by gene. A gene counts in
    the folds that have it.

    Args:
        runs: Contents of metrics.json by fold, one for each seed.
        row: ``model``, or ``constant`` for the constant predictor.
    """
    genes = list(dict.fromkeys(g for seeds in runs.values() for run in seeds for g in run["genes"]))
    folds = {
        number: _average(
            [
                FoldMetrics.from_dict(run[row], run["genes"], genes, len(run["tested_on"]))
                for run in seeds
            ]
        )
        for number, seeds in sorted(runs.items())
    }
    return ModelScores(tuple(genes), folds)


def summarize(scores: ModelScores) -> dict[str, Any]:
    """Return mean and standard deviation (ddof 0) of each metric over folds, and the top genes."""
    summary = cross_validate(list(scores.folds.values()))
    return {
        **{key: asdict(getattr(summary, key)) for key in METRIC_KEYS},
        "top_genes": [scores.genes[i] for i in summary.top_genes.tolist()],
        "n_folds": summary.n_folds,
    }


def paired_differences(scores: ModelScores, reference: ModelScores) -> dict[str, dict[str, Any]]:
    """Return how each metric differs from the reference, fold by fold.

    Returns:
        ``mean``, ``std`` (ddof 0) and number ``n`` of the folds' differences, by metric.
    """
    own, others = scores.by_fold(), reference.by_fold()
    return {key: _paired(own[key], others[key]) for key in METRIC_KEYS}


def common_top_scores(rows: Mapping[str, ModelScores]) -> dict[str, dict[str, float]]:
    """Return the PCC of every model over the same 50 genes: the best by mean rank over all models.

    Unlike PCC(H), this compares models on the same genes.

    Args:
        rows: Scores on one data set, by the model's label.
    """
    genes = list(dict.fromkeys(gene for scores in rows.values() for gene in scores.genes))
    ranks = np.stack([_aligned(scores.ranked(), scores.genes, genes) for scores in rows.values()])
    known = ~np.isnan(ranks).any(axis=0)
    mean = np.where(known, np.where(known, ranks, 0).mean(axis=0), np.nan)
    chosen = [genes[i] for i in top_genes(mean, N_TOP_GENES).tolist()]
    return {label: _over(scores, chosen) for label, scores in rows.items()}


def _over(scores: ModelScores, chosen: Sequence[str]) -> dict[str, float]:
    index = np.array([scores.genes.index(gene) for gene in chosen], np.int64)
    return asdict(Spread.over([nan_mean(row[index]) for row in scores.pcc]))


def _paired(own: Mapping[int, float], others: Mapping[int, float]) -> dict[str, Any]:
    shared = [number for number in own if number in others]
    values = [own[number] - others[number] for number in shared]
    return {**asdict(Spread.over(values)), "n": int(np.count_nonzero(~np.isnan(values)))}


def _average(seeds: Sequence[FoldMetrics]) -> FoldMetrics:
    pcc = np.stack([seed.pcc for seed in seeds])
    return FoldMetrics(
        mse=float(np.mean([seed.mse for seed in seeds])),
        mae=float(np.mean([seed.mae for seed in seeds])),
        pcc=np.array([nan_mean(column) for column in pcc.T]),
        n_slides=seeds[0].n_slides,
        mse_within=float(np.mean([seed.mse_within for seed in seeds])),
        mse_offset=float(np.mean([seed.mse_offset for seed in seeds])),
    )


def _aligned(
    values: NDArray[np.float64], names: Sequence[str], genes: Sequence[str]
) -> NDArray[np.float64]:
    known = dict(zip(names, values.tolist(), strict=True))
    return np.array([known.get(gene, np.nan) for gene in genes])
