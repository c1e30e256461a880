"""Baselines of a study: ridge regression, the features around a spot, and their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.study.conftest import study_values, write_study
from triplex_deploy.study.baselines import (
    PENALTY,
    context_features,
    ridge,
    score_baselines,
    tile_features,
)
from triplex_deploy.study.config import read_study
from triplex_deploy.training.prepared import PreparedSection, open_prepared


@pytest.mark.parametrize("spots", [8, 40])
def test_ridge_has_the_least_penalized_error(spots: int) -> None:
    """No small change of the weights makes it smaller, with more spots than features and fewer."""
    rng = np.random.default_rng(spots)
    known, labels = rng.normal(3, 2, (spots, 12)), rng.normal(size=(spots, 2))
    inputs = (known - known.mean(0)) / (known.std(0) + 1e-6)
    units = known.mean(0) + np.eye(12) * (known.std(0) + 1e-6)
    mean = ridge(known, labels, known.mean(0)[None])
    weights = ridge(known, labels, units) - mean
    gradient = inputs.T @ (inputs @ weights - (labels - labels.mean(0))) + PENALTY * weights
    np.testing.assert_allclose(mean[0], labels.mean(0))
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_context_is_the_mean_over_five_by_five_spots(prepared_path: Path) -> None:
    section = next(iter(open_prepared(prepared_path).sections.values()))
    own, grid = tile_features(section), section.measured.grid_rc
    found = context_features(section)
    np.testing.assert_array_equal(found[:, : own.shape[1]], own)
    for row in (0, len(own) - 1):
        near = (abs(grid - grid[row]) <= 2).all(1)
        np.testing.assert_allclose(found[row, own.shape[1] :], own[near].mean(0))


def test_scores_are_of_each_fold_of_the_study(prepared_path: Path, tmp_path: Path) -> None:
    values = study_values(prepared_path, baselines=["context_ridge"], folds=[0, 2])
    study = read_study(write_study(tmp_path, values))
    (scores,) = score_baselines(study, "ST").values()
    assert list(scores.folds) == [0, 2]
    for fold in scores.folds.values():
        assert fold.mse == pytest.approx(fold.mse_within + fold.mse_offset)


def test_labels_of_the_test_section_are_not_used(
    prepared_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions stay the same whatever the test section's labels are."""
    from triplex_deploy.study import baselines

    predicted: list[NDArray[np.float64]] = []

    def recorded(*arguments: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted.append(ridge(*arguments))
        return predicted[-1]

    monkeypatch.setattr(baselines, "ridge", recorded)
    values = study_values(
        prepared_path, baselines=["tile_ridge"], folds=[0], selection="validation"
    )
    study = read_study(write_study(tmp_path, values))
    score_baselines(study, "ST")
    fold = open_prepared(prepared_path).folds[0]
    original = PreparedSection.labels

    def shifted(section: PreparedSection, panel: Any, transform: Any) -> NDArray[np.float32]:
        is_test = section.measured.name in fold.test
        return original(section, panel, transform) + np.float32(5 * is_test)

    monkeypatch.setattr(PreparedSection, "labels", shifted)
    score_baselines(study, "ST")
    np.testing.assert_array_equal(predicted[0], predicted[1])
