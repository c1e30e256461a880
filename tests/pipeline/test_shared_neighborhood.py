"""Predicting with neighbor tiles from one grid of the slide, with fake graphs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy import PredictOptions, predict_slide
from triplex_deploy.contract import StNetConfig
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots


def shared(stride: int) -> Model:
    return fake_model(fake_config(neighborhood="shared", neighborhood_stride=stride))


def predict(path: Path, model: Model, spots: Spots | None, cache: Path | None = None) -> Prediction:
    options = PredictOptions(spots=spots, cache=cache, all_tiles=spots is None)
    return predict_slide(path, model, options)


@pytest.mark.parametrize("stride", [224, 112])
def test_grid_of_tiles_is_predicted_as_with_exact_neighbors(stride: int, slide_path: Path) -> None:
    exact = predict(slide_path, fake_model(fake_config()), None)
    ours = predict(slide_path, shared(stride), None)
    np.testing.assert_array_equal(ours.expression, exact.expression)
    assert ours.run["tiles_encoded"] == exact.run["tiles_encoded"]
    assert (ours.run["neighborhood"], ours.run["neighborhood_stride_px"]) == ("shared", stride)
    assert exact.run["neighborhood"] == "exact"
    assert "neighborhood_stride_px" not in exact.run


def test_spots_off_the_grid_are_predicted_differently_and_in_any_order(
    slide_path: Path, some_spots: Spots
) -> None:
    exact = predict(slide_path, fake_model(fake_config()), some_spots)
    ours = predict(slide_path, shared(224), some_spots)
    assert np.abs(ours.expression - exact.expression).max() > 1e-3
    order = np.random.default_rng(2).permutation(len(some_spots.level0_xy))
    given = replace(
        some_spots, level0_xy=some_spots.level0_xy[order], grid_rc=some_spots.grid_rc[order]
    )
    shuffled = predict(slide_path, shared(224), given)
    np.testing.assert_allclose(shuffled.expression, ours.expression[order], atol=1e-6)


def test_spots_of_another_table_take_the_tiles_that_are_known(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    """Exact tiles of spots a few pixels away are others, and are encoded."""
    moved = replace(some_spots, level0_xy=some_spots.level0_xy + np.array([3, -7]))
    inside = np.array([0, 3, 4, 5, 7])
    tables = [
        replace(spots, level0_xy=spots.level0_xy[inside], grid_rc=spots.grid_rc[inside])
        for spots in (some_spots, moved)
    ]
    known = {}
    for stride in (1, 224):  # a stride of 1 is exact
        cache = tmp_path / str(stride)
        runs = [predict(slide_path, shared(stride), spots, cache) for spots in tables]
        known[stride] = runs[1].run["tiles_from_cache"]
    assert known[1] == 0 < known[224]
    fresh = predict(slide_path, shared(224), tables[1])
    np.testing.assert_array_equal(runs[1].expression, fresh.expression)
    assert runs[1].run["tiles_encoded"] == len(inside)  # their own tiles alone


def test_models_without_neighbors_say_nothing_of_them(slide_path: Path, some_spots: Spots) -> None:
    config = StNetConfig(n_genes=3, feature_dim=10)
    assert "neighborhood" not in predict(slide_path, fake_model(config), some_spots).run
