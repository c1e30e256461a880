"""Collect the results of a study as plain values, for JSON, tables and figures."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from triplex_deploy.study.baselines import score_baselines
from triplex_deploy.study.cells import StudyCell, metrics_of, read_record
from triplex_deploy.study.config import Study
from triplex_deploy.study.paper import Printed, paper_row, paper_source
from triplex_deploy.study.scores import (
    METRIC_KEYS,
    ModelScores,
    common_top_scores,
    paired_differences,
    score_row,
    summarize,
)
from triplex_deploy.study.train_cell import CellOutcome
from triplex_deploy.system import installed_versions, processor_name, usable_cores
from triplex_deploy.training.run_files import without_nan

SCHEMA: Final = 1
"""Version of the results' format."""
PACKAGES: Final = ("triplex-deploy", "torch", "lightning-fabric", "numpy", "onnxruntime")

Runs = dict[int, list[dict[str, Any]]]
"""Metrics of a model on a data set by fold, one for each seed."""


@dataclass(frozen=True, eq=False)
class FinishedCells:
    """The finished cells of a study."""

    cells: tuple[StudyCell, ...]
    """The cells."""
    metrics: tuple[dict[str, Any], ...]
    """Content of each cell's metrics.json."""

    @classmethod
    def of(cls, cells: Sequence[StudyCell]) -> FinishedCells:
        """Return those of ``cells`` that are finished."""
        found = [(cell, metrics) for cell in cells if (metrics := metrics_of(cell)) is not None]
        return cls(tuple(cell for cell, _ in found), tuple(metrics for _, metrics in found))

    def runs(self, dataset: str, model: str) -> Runs:
        """Return the metrics of a model on a data set, by fold."""
        runs: Runs = defaultdict(list)
        for cell, metrics in zip(self.cells, self.metrics, strict=True):
            if (cell.dataset, cell.model) == (dataset, model):
                runs[cell.fold].append(metrics)
        return dict(runs)

    def scores(self, dataset: str, models: Sequence[str]) -> dict[str, ModelScores]:
        """Return the scores of the models that have a finished cell."""
        found = {model: self.runs(dataset, model) for model in models}
        return {model: score_row(runs) for model, runs in found.items() if runs}

    def seconds(self, dataset: str, model: str) -> float:
        """Return the training time of a model in seconds, with what interruptions have repeated."""
        records = (
            read_record(cell.folder)
            for cell in self.cells
            if (cell.dataset, cell.model) == (dataset, model)
        )
        return round(sum(float(record["training_s"]) for record in records if record), 1)


def collect_results(
    study: Study,
    cells: Sequence[StudyCell],
    failed: Sequence[CellOutcome],
    deployed: Mapping[tuple[str, str], Mapping[str, Any]],
    external: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of NAME.json.

    Args:
        study: The study.
        cells: All cells of the study, finished or not.
        failed: Outcomes of the cells that failed in this run.
        deployed: Costs of the deployments, by data set and model.
        external: Metrics of the external tests, by label.
    """
    finished, config = FinishedCells.of(cells), study.config
    content = {
        "schema": SCHEMA,
        "name": config.name,
        "config": config.model_dump(mode="json"),
        "selection": config.selection,
        "seeds": config.seeds,
        "reference": config.reference,
        "cells": {"all": len(cells), "done": len(finished.cells)},
        "failed": [{"cell": outcome.cell.key, "error": outcome.error} for outcome in failed],
        "paper": paper_source(),
        "machine": {"processor": processor_name(), "cores": usable_cores()},
        "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
        "datasets": {
            label: _dataset(study, label, cells, finished, deployed) for label in config.datasets
        },
        "external": dict(external),
    }
    plain: dict[str, Any] = without_nan(content)
    return plain


def _dataset(
    study: Study,
    label: str,
    cells: Sequence[StudyCell],
    finished: FinishedCells,
    deployed: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any]:
    config = study.config
    rows = finished.scores(label, list(config.models))
    metrics = [
        m for cell, m in zip(finished.cells, finished.metrics, strict=True) if cell.dataset == label
    ]
    reference = rows.get(config.reference) if config.reference else None
    common = common_top_scores(rows) if rows else {}
    models = {}
    for model, scores in rows.items():
        models[model] = {
            "cells_done": sum(map(len, finished.runs(label, model).values())),
            "cells": sum((cell.dataset, cell.model) == (label, model) for cell in cells),
            **summarize(scores),
            "pcc_common": common[model],
            "per_fold": _per_fold(scores),
            "difference": None if reference is None else paired_differences(scores, reference),
            "paper": _paper(study, label, model),
            "training_s": finished.seconds(label, model),
            "deployed": deployed.get((label, model)),
        }
    return {
        "shares_patients": any(values["shares_patients"] for values in metrics),
        "folds": {str(c.fold): m["tested_on"] for c, m in _first_of_folds(label, finished)},
        "constant": _constant(label, finished),
        "baselines": {
            name: {
                **summarize(scores),
                "per_fold": _per_fold(scores),
                "difference": None if reference is None else paired_differences(scores, reference),
            }
            for name, scores in score_baselines(study, label).items()
        },
        "models": models,
    }


def _constant(label: str, finished: FinishedCells) -> dict[str, Any] | None:
    """Return the scores of the constant predictor, which are the same in all cells of a fold."""
    runs = {cell.fold: [metrics] for cell, metrics in _first_of_folds(label, finished)}
    if not runs:
        return None
    summary = summarize(score_row(runs, "constant"))
    errors = [key for key in METRIC_KEYS if not key.startswith("pcc")]
    return {key: summary[key] for key in (*errors, "n_folds")}


def _first_of_folds(
    label: str, finished: FinishedCells
) -> Iterator[tuple[StudyCell, dict[str, Any]]]:
    seen = set()
    for cell, metrics in zip(finished.cells, finished.metrics, strict=True):
        if cell.dataset == label and cell.fold not in seen:
            seen.add(cell.fold)
            yield cell, metrics


def _per_fold(scores: ModelScores) -> list[dict[str, Any]]:
    values = scores.by_fold()
    return [
        {"fold": number, **{key: values[key][number] for key in METRIC_KEYS}}
        for number in scores.folds
    ]


def _paper(study: Study, label: str, model: str) -> Printed | None:
    column = study.config.datasets[label].paper
    if column is None:
        return None
    return paper_row(column.table, column.column, study.config.paper_rows.get(model, model))
