"""Score predictors without a network on the folds of a study: what models must be better than.

Ridge regression on the frozen features that the models get too: of the spot's own tile, or with the
mean over the spots around it beside it. docs/study.md, "Baselines", has the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree

from triplex_deploy.data import Fold
from triplex_deploy.expression import measure_fold, measure_slide
from triplex_deploy.study.cells import folds_of, open_folders
from triplex_deploy.study.config import Study
from triplex_deploy.study.scores import ModelScores, score_row
from triplex_deploy.training.prepared import Prepared, PreparedSection

PENALTY: Final = 10_000.0
"""Penalty of standardized features. It was chosen once, before a test section was looked at."""
CONTEXT: Final = 2
"""Array steps in each direction that features are averaged over: 5 x 5 spots, as the model sees."""
_SMALLEST_STD: Final = 1e-6

Features = NDArray[np.float64]


def score_baselines(study: Study, label: str) -> dict[str, ModelScores]:
    """Return the scores of the study's baselines on a data set, by the baseline's name.

    Args:
        study: The study; its ``baselines`` say which.
        label: Label of the data set.

    Raises:
        DatasetError: If the data set is not prepared.
    """
    names = study.config.baselines
    if not names:
        return {}
    prepared = open_folders(study, study.config.datasets[label])[0]
    selection = study.config.selection
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in names}
    for name in names:
        describe = cache(BASELINES[name])  # a section is in every fold
        for fold in folds_of(study, label, prepared):
            runs[name][fold.index] = [_score(prepared, fold, selection, describe)]
    return {name: score_row(of_folds) for name, of_folds in runs.items()}


def ridge(known: Features, labels: NDArray[np.floating], query: Features) -> Features:
    """Return predictions (N, G) of a ridge regression.

    Features are standardized by the training spots; the mean label is not penalized.

    Args:
        known: Features (S, F) of the training spots.
        labels: Their labels (S, G).
        query: Features (N, F) to predict for.
    """
    mean, scale = known.mean(axis=0), known.std(axis=0) + _SMALLEST_STD
    known, query = (known - mean) / scale, (query - mean) / scale
    offset = labels.mean(axis=0, dtype=np.float64)
    centered = labels - offset
    if len(known) > known.shape[1]:
        gram = known.T @ known + PENALTY * np.eye(known.shape[1])
        weights = np.linalg.solve(gram, known.T @ centered)
    else:  # the same weights from a smaller system
        kernel = known @ known.T + PENALTY * np.eye(len(known))
        weights = known.T @ np.linalg.solve(kernel, centered)
    predicted: Features = query @ weights + offset
    return predicted


def tile_features(section: PreparedSection) -> Features:
    """Return features (N, F) of the spots' own tiles."""
    return section.spot_features().astype(np.float64)


def context_features(section: PreparedSection) -> Features:
    """Return features (N, 2 F): of the own tile, and their mean over the spots around it."""
    own, grid = tile_features(section), section.measured.grid_rc
    near = KDTree(grid).query_ball_point(grid, CONTEXT, p=np.inf)
    ends = np.cumsum([0, *map(len, near)])
    columns = np.concatenate([np.asarray(rows, np.int64) for rows in near])
    shares = np.repeat(1 / np.diff(ends), np.diff(ends))
    average = csr_matrix((shares, columns, ends), shape=(len(own), len(own)))
    return np.hstack([own, average @ own])


BASELINES: Final[Mapping[str, Callable[[PreparedSection], Features]]] = {
    "tile_ridge": tile_features,
    "context_ridge": context_features,
}
"""The features of each baseline."""


def _score(
    prepared: Prepared,
    fold: Fold,
    selection: str,
    describe: Callable[[PreparedSection], Features],
) -> dict[str, Any]:
    """Return the content that metrics.json of a model would have, for ``score_row``."""
    panel, transform = prepared.panel(fold, selection), prepared.label_transform
    train = [prepared.sections[name] for name in fold.train]
    test = [prepared.sections[name] for name in fold.test]
    known = np.vstack([describe(section) for section in train])
    labels = np.vstack([section.labels(panel, transform) for section in train])
    query = [describe(section) for section in test]
    ends = np.cumsum([len(features) for features in query])[:-1]
    predicted = np.split(ridge(known, labels, np.vstack(query)).astype(np.float32), ends)
    metrics = measure_fold(
        [
            measure_slide(section.labels(panel, transform), values)
            for section, values in zip(test, predicted, strict=True)
        ]
    )
    return {"genes": list(panel), "tested_on": list(fold.test), "model": metrics.to_dict()}
