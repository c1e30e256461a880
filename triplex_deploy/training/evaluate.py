"""Scores of a finished run over its folds, or of one prediction against measured counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.errors import OutputError
from triplex_deploy.expression import (
    FoldMetrics,
    constant_predictor,
    cross_validate,
    measure_fold,
    measure_slide,
)
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file
from triplex_deploy.training.match import Matched
from triplex_deploy.training.options import current_selection
from triplex_deploy.training.run_files import METRICS, files_of_folds

ROWS: Final = ("model", "calibrated", "constant")
"""Rows of the scores of a fold; the second is missing where nothing was held out."""


def evaluate_run(run: Path) -> dict[str, Any]:
    """Mean and standard deviation (ddof 0) over the folds of a run, beside the constant predictor.

    Folds selected in different ways are refused. Where genes differ between folds, as under
    validation selection, a gene counts in the folds that have it.
    """
    folds = _read_folds(run)
    selections = {fold["selection"] for fold in folds}
    if len(selections) > 1:
        raise OutputError(f"{run}: folds are of {' and '.join(selections)} selection; train again")
    genes = list(dict.fromkeys(gene for fold in folds for gene in fold["genes"]))
    rows = [row for row in ROWS if all(row in fold for fold in folds)]
    summary = {row: _summarize(folds, row, genes) for row in rows}
    return {
        "run": str(run),
        "selection": selections.pop(),
        "shares_patients": any(fold["shares_patients"] for fold in folds),
        "folds": [fold["fold"] for fold in folds],
        "per_fold": [_of_fold(fold) for fold in folds],
        **summary,
    }


def evaluate_prediction(matched: Matched, slide_name: str) -> dict[str, Any]:
    """Score a prediction against the labels of the spots and genes both have.

    Beside it stands what predicting each gene's own mean over the slide would score. Raises
    ``OutputError`` for a prediction that has NaN or infinity.
    """
    labels, predicted = matched.labels, matched.predicted
    _require_finite(matched, slide_name)
    slide = measure_slide(labels, predicted)
    constant = measure_slide(labels, np.broadcast_to(constant_predictor([labels]), labels.shape))
    transform = matched.transform
    return {
        "slide": slide_name,
        "spots": len(labels),
        "joined_by": matched.joined_by,
        "predicted_without_partner": matched.predicted_alone,
        "measured_without_partner": matched.measured_alone,
        "genes": list(matched.genes),
        "truth_are_counts": transform is not None,
        "label_transform": None if transform is None else transform.to_dict(),
        "label_transform_is": matched.transform_is,
        "model": measure_fold([slide]).to_dict(),
        "own_mean": {"mse": constant.mse, "mae": constant.mae},
    }


def _require_finite(matched: Matched, slide_name: str) -> None:
    wrong = np.argwhere(~np.isfinite(matched.predicted))
    if len(wrong):
        spot, gene = wrong[0].tolist()
        raise OutputError(
            f"{slide_name}: {len(wrong)} predicted values are NaN or infinite, the first of "
            f"{matched.genes[gene]} at spot {int(matched.spot_index[spot])}, counted from 0; "
            "predict again"
        )


def fold_correlations(run: Path) -> dict[str, list[float | None]]:
    """Return the correlation of every gene on the test sections of each fold of a finished run."""
    return {fold["fold"]: fold["model"]["pcc"] for fold in _read_folds(run)}


def _read_folds(run: Path) -> list[dict[str, Any]]:
    paths = files_of_folds(run, METRICS)
    if not run.exists():
        raise OutputError(f"{run}: no such file or folder; check the path")
    if not paths:
        raise OutputError(f"{run}: no fold-*/{METRICS}; pass the --out of a finished train")
    return [_read_fold(path) for path in paths]


def _read_fold(path: Path) -> dict[str, Any]:
    """Return the content of a metrics file; raises ``OutputError`` if a part of it is wrong."""
    require_regular_file(path, OutputError, "metrics.json of a run")
    with damage_as(OutputError, f"{path}: damaged", "train again, with --resume"):
        fold = json.loads(path.read_text(encoding="utf-8"))
        genes = fold["genes"]
        right = (
            isinstance(fold["fold"], str)
            and isinstance(fold["selection"], str)
            and isinstance(fold["shares_patients"], bool)
            and _are_names(fold["tested_on"])
            and _are_names(genes)
            and len(set(genes)) == len(genes)
            and {"model", "constant"} <= fold.keys()
            and all(_are_scores(fold[row], len(genes)) for row in ROWS if row in fold)
        )
        if not right:
            raise OutputError(f"{path}: damaged, a value is missing or wrong; train again")
        return {**fold, "selection": current_selection(fold["selection"])}


def _are_names(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def _are_scores(row: Any, n_genes: int) -> bool:
    """Return True for the scores of one row; a missing score is null."""
    errors = (row["mse"], row["mae"])
    parts = (row.get("mse_within"), row.get("mse_offset"))  # not in metrics of earlier versions
    scores = [score for score in (*parts, row["pcc_m"], *row["pcc"]) if score is not None]
    numbers = all(type(value) in (int, float) for value in (*errors, *scores))
    return numbers and len(row["pcc"]) == n_genes


def _summarize(folds: Sequence[dict[str, Any]], row: str, genes: list[str]) -> dict[str, Any]:
    result = cross_validate([_fold_metrics(fold, row, genes) for fold in folds])
    values = asdict(result)
    values["top_genes"] = [genes[i] for i in result.top_genes.tolist()]
    return values


def _of_fold(fold: dict[str, Any]) -> dict[str, Any]:
    keys = ("mse", "mse_within", "mse_offset", "mae", "pcc_m")
    scores = {key: fold["model"].get(key) for key in keys}
    return {"fold": fold["fold"], "tested_on": fold["tested_on"], **scores}


def _fold_metrics(fold: dict[str, Any], row: str, genes: list[str]) -> FoldMetrics:
    return FoldMetrics.from_dict(fold[row], fold["genes"], genes, len(fold["tested_on"]))
