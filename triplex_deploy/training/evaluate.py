"""Scores of a finished run over its folds, or of one prediction against measured counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError, OutputError
from triplex_deploy.expression import (
    FoldMetrics,
    LabelTransform,
    constant_predictor,
    cross_validate,
    measure_fold,
    measure_slide,
)
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.run_files import METRICS


def evaluate_run(run: Path) -> dict[str, Any]:
    """Mean and standard deviation (ddof 0) over the folds of a run, beside the constant predictor.

    Folds selected in different ways are refused. Where genes differ between folds, as under honest
    selection, a gene counts in the folds that have it.
    """
    paths = sorted(run.glob(f"fold-*/{METRICS}")) or sorted(run.glob(METRICS))
    if not paths:
        raise OutputError(f"{run}: no fold-*/{METRICS}; pass the --out of a finished train")
    folds = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    selections = {fold["selection"] for fold in folds}
    if len(selections) > 1:
        raise OutputError(f"{run}: folds are of {' and '.join(selections)} selection; train again")
    genes = list(dict.fromkeys(gene for fold in folds for gene in fold["genes"]))
    summary = {row: _summarise(folds, row, genes) for row in ("model", "constant")}
    return {
        "run": str(run),
        "selection": selections.pop(),
        "shares_patients": any(fold["shares_patients"] for fold in folds),
        "folds": [fold["fold"] for fold in folds],
        **summary,
    }


def evaluate_prediction(
    prediction: Prediction, truth: Path, transform: LabelTransform | None = None
) -> dict[str, Any]:
    """Score a prediction against the h5ad ``truth`` over the spots and genes both have.

    Spots are matched by name. Whole numbers in ``truth`` are raw counts and go through
    ``transform``; fractions are taken as labels already, which the result says.
    """
    labels, predicted, genes, are_counts = _match(prediction, truth, transform or LabelTransform())
    slide = measure_slide(labels, predicted)
    constant = measure_slide(labels, np.broadcast_to(constant_predictor([labels]), labels.shape))
    fold = measure_fold([slide])
    return {
        "slide": prediction.slide_name,
        "spots": len(labels),
        "genes": genes,
        "truth_are_counts": are_counts,
        "model": {
            "mse": slide.mse,
            "mae": slide.mae,
            "pcc_m": fold.pcc_m,
            "pcc": slide.pcc.tolist(),
        },
        "own_mean": {"mse": constant.mse, "mae": constant.mae},
    }


def _summarise(folds: Sequence[dict[str, Any]], row: str, genes: list[str]) -> dict[str, Any]:
    result = cross_validate([_fold_metrics(fold, row, genes) for fold in folds])
    values = asdict(result)
    values["top_genes"] = [genes[i] for i in result.top_genes.tolist()]
    return values


def _fold_metrics(fold: dict[str, Any], row: str, genes: list[str]) -> FoldMetrics:
    known = dict(zip(fold["genes"], fold[row]["pcc"], strict=True))
    pcc = np.array([np.nan if known.get(gene) is None else known[gene] for gene in genes])
    return FoldMetrics(fold[row]["mse"], fold[row]["mae"], pcc, len(fold["tested_on"]))


def _match(
    prediction: Prediction, truth: Path, transform: LabelTransform
) -> tuple[NDArray[np.float64], NDArray[np.float32], list[str], bool]:
    from triplex_deploy.data.measured_h5ad import read_measured

    names, measured_genes, values, grid_rc = read_measured(truth)
    column = {gene: i for i, gene in enumerate(measured_genes)}
    shared = [i for i, gene in enumerate(prediction.genes) if gene in column]
    row_of = {name: i for i, name in enumerate(names)}
    rows = [i for i, name in enumerate(prediction.spot_names) if name in row_of]
    if not shared or not rows:
        raise DatasetError(
            f"{truth}: shares {len(rows)} spots and {len(shared)} genes with the prediction; it "
            'needs obs["array_row"], obs["array_col"] and gene symbols as var_names'
        )
    panel = values[:, [column[prediction.genes[i]] for i in shared]]
    are_counts = bool((values == np.round(values)).all())
    labels = transform(panel, grid_rc, values.sum(axis=1)) if are_counts else panel
    chosen = [row_of[prediction.spot_names[i]] for i in rows]
    predicted = prediction.expression[np.ix_(rows, shared)]
    return labels[chosen], predicted, [prediction.genes[i] for i in shared], are_counts


def draw_histogram(path: Path, pcc: Sequence[float | None]) -> None:
    """How the genes' correlations are spread, as a PNG."""
    from matplotlib.figure import Figure

    from triplex_deploy.outputs.atomic import atomic_path

    known = [value for value in pcc if value is not None and np.isfinite(value)]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.hist(known, bins=np.linspace(-1, 1, 41).tolist())
    axis.set(xlabel="correlation over spots", ylabel="genes")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
