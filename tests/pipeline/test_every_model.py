"""One pipeline runs every configuration: the names of the graphs decide, not the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from tests.pipeline.reference import predict_one_by_one
from triplex_deploy import predict_slide
from triplex_deploy.contract import (
    BleepConfig,
    Config,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    StNetConfig,
    graph_specs,
)
from triplex_deploy.errors import SpotsError
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.apeg import position_index
from triplex_deploy.tiles.spot_tables import adjacency_index

MAX_ABS = 2e-6

CONFIGS: list[dict[str, Any]] = [
    {"model": "tem"},
    {"model": "nem"},
    {"model": "gem"},
    {"model": "triplex"},
    {"use_target": False},
    {"use_neighbor": False},
    {"use_global": False},
    {"fusion": "sum"},
    {"fusion": "concat"},
    {"fusion": "attention_pool"},
    {"feature_dim": 1280},
    {"position": "peg"},
    {"position": "none"},
    {"model": "gem", "apeg_kernel": 5},
]

BASELINES: dict[str, Config] = {
    "st_net": StNetConfig(n_genes=6),
    "his_to_gene": HisToGeneConfig(n_genes=6, embedding_dim=8, heads=2),
    "hist2st": Hist2StConfig(n_genes=6, channels=8, embedding_dim=256, mlp_dim=256),
    "egn": EgnConfig(n_genes=6, feature_dim=10, embedding_dim=8, heads=2, n_exemplars=3),
    "bleep": BleepConfig(n_genes=6, embedding_dim=8),
}


def _predict(path: Path, model: Model, spots: Spots, **options: Any) -> Prediction:
    return predict_slide(path, model, PredictOptions(spots=spots, **options))


def _calls(model: Model, graph: str) -> list[int]:
    session = model.sessions[graph]
    assert isinstance(session, FakeSession)
    return session.calls


@pytest.mark.parametrize(
    "options", CONFIGS, ids=lambda options: " ".join(map(str, options.items()))
)
def test_model_predicts_what_the_loop_predicts(
    options: dict[str, Any], slide_path: Path, slide_pixels: NDArray[np.uint8], some_spots: Spots
) -> None:
    config = fake_config(**options)
    prediction = _predict(slide_path, fake_model(config), some_spots, batch_size=3)
    centers = np.floor(some_spots.level0_xy + 1e-6).astype(np.int64)
    table = position_index(some_spots.grid_rc, config.position, config.apeg_kernel)
    wanted = predict_one_by_one(
        slide_pixels, centers, some_spots.grid_rc, fake_model(config), {"apeg_index": table}
    )
    assert np.abs(prediction.expression - wanted).max() <= MAX_ABS
    assert np.ptp(wanted) > 0.1


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_predicts_what_the_loop_predicts(
    name: str, slide_path: Path, slide_pixels: NDArray[np.uint8], some_spots: Spots
) -> None:
    config, grid_rc = BASELINES[name], some_spots.grid_rc
    tables = {"grid_xy": grid_rc[:, ::-1].copy(), "adjacency": adjacency_index(grid_rc)}
    taken = {tensor.name for spec in graph_specs(config).values() for tensor in spec.inputs}
    centers = np.floor(some_spots.level0_xy + 1e-6).astype(np.int64)
    prediction = _predict(slide_path, fake_model(config), some_spots, batch_size=3)
    wanted = predict_one_by_one(
        slide_pixels,
        centers,
        grid_rc,
        fake_model(config),
        {table: values for table, values in tables.items() if table in taken},
    )
    assert np.abs(prediction.expression - wanted).max() <= MAX_ABS
    assert np.ptp(wanted) > 0.1
    assert prediction.run["tiles_encoded"] == prediction.n_spots


def test_coordinates_beyond_the_model_are_refused(slide_path: Path, some_spots: Spots) -> None:
    far = replace(some_spots, grid_rc=some_spots.grid_rc + 60)
    with pytest.raises(SpotsError, match="knows 0 to 63; predict in regions"):
        _predict(slide_path, fake_model(BASELINES["his_to_gene"]), far)


def test_regions_count_coordinates_from_their_own_corner(
    slide_path: Path, some_spots: Spots
) -> None:
    """Far from the array's corner, the spots of a region get the values that they get near it."""
    model = fake_model(BASELINES["his_to_gene"])
    far = replace(some_spots, grid_rc=some_spots.grid_rc + 1000)
    near, moved = (
        _predict(slide_path, model, spots, region_mm=0.35) for spots in (some_spots, far)
    )
    np.testing.assert_array_equal(moved.expression, near.expression)
    rows = [1, 3, 5, 6]  # as in the test of TRIPLEX's regions; their corner is (0, 0)
    part = replace(
        some_spots, level0_xy=some_spots.level0_xy[rows], grid_rc=some_spots.grid_rc[rows]
    )
    alone = _predict(slide_path, model, part)
    assert np.abs(near.expression[rows] - alone.expression).max() <= MAX_ABS


def test_single_region_counts_from_its_corner_too(slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(BASELINES["his_to_gene"])
    far = replace(some_spots, grid_rc=some_spots.grid_rc + 1000)
    moved = _predict(slide_path, model, far, region_mm=5.0)
    assert moved.run["regions"] == 1
    whole = _predict(slide_path, model, some_spots)
    np.testing.assert_array_equal(moved.expression, whole.expression)


def test_gathering_is_timed_apart(slide_path: Path, some_spots: Spots) -> None:
    run = _predict(slide_path, fake_model(fake_config()), some_spots).run
    assert 0 <= run["timings_s"]["gather"] < run["timings_s"]["total"]


@pytest.mark.parametrize("model_name", ["tem", "gem"])
def test_without_a_view_of_neighbors_only_own_tiles_are_read(
    model_name: str, slide_path: Path, some_spots: Spots
) -> None:
    model = fake_model(fake_config(model=model_name))
    prediction = _predict(slide_path, model, some_spots)
    assert prediction.run["tiles_encoded"] == prediction.n_spots == 9
    assert prediction.run["sharing"] == 1.0


def test_each_tile_goes_through_each_graph_once(slide_path: Path, some_spots: Spots) -> None:
    """The tile in place of masked neighbors is encoded once more."""
    model = fake_model(fake_config())
    prediction = _predict(slide_path, model, some_spots, batch_size=4)
    masked = 1
    assert sum(_calls(model, "tile_encoder")) == prediction.run["tiles_encoded"] + masked
    assert prediction.run["tiles_encoded"] < prediction.run["tiles_without_sharing"]
    assert sum(_calls(model, "target_encoder")) == 9
    assert _calls(model, "global_encoder") == [9]


def test_masked_neighbor_counts_as_mean_color_where_tokens_are_averaged(
    slide_path: Path, some_spots: Spots
) -> None:
    """A zero feature in its place would change the prediction of a model that averages tokens."""
    model = fake_model(fake_config(model="nem"))
    straight = _predict(slide_path, model, some_spots)
    encoder = model.sessions["tile_encoder"]
    run = encoder._run
    mean_color = np.full((1, 1, 1, 3), (124, 116, 104), np.uint8)

    def blind(inputs: Any) -> Any:
        features = run(inputs)["features"]
        features[(inputs["tiles"] == mean_color).all(axis=(1, 2, 3))] = 0
        return {"features": features}

    encoder._run = blind  # type: ignore[method-assign]
    zeroed = _predict(slide_path, model, some_spots)
    inside = 0  # spot 0 has all of its neighbors on the slide
    np.testing.assert_array_equal(zeroed.expression[inside], straight.expression[inside])
    assert np.abs(zeroed.expression[1] - straight.expression[1]).max() > 1e-3


def test_batch_size_and_workers_change_nothing(slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(fake_config())
    one = _predict(slide_path, model, some_spots, batch_size=1, threads=1)
    many = _predict(slide_path, model, some_spots, batch_size=50, threads=5)
    assert np.abs(one.expression - many.expression).max() <= 1e-6
    assert (one.run["workers"], one.run["batch_size"]) == (1, 1)
    assert (many.run["workers"], many.run["batch_size"]) == (5, 50)


def test_half_features_differ_by_their_rounding_alone(slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(fake_config())
    whole = _predict(slide_path, model, some_spots)
    half = _predict(slide_path, model, some_spots, half_features=True)
    largest = np.abs(half.expression - whole.expression).max()
    assert 0 < largest < 5e-3 * np.ptp(whole.expression)


def test_rows_kept_in_a_file_are_the_same(slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(fake_config())
    memory = _predict(slide_path, model, some_spots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictOptions, "row_store_bytes", property(lambda _: 0.0))
        file = _predict(slide_path, model, some_spots)
    assert set(memory.run["kept_in"].values()) == {"memory"}
    assert set(file.run["kept_in"].values()) == {"file"}
    np.testing.assert_array_equal(file.expression, memory.expression)


def test_regions_are_predicted_as_slides_of_their_own(slide_path: Path, some_spots: Spots) -> None:
    """0.35 mm at 0.5 um/px are 700 px: the spots lie in the four squares of a 2 x 2 grid."""
    model = fake_model(fake_config())
    regions = _predict(slide_path, model, some_spots, region_mm=0.35)
    assert regions.run["regions"] == 2
    whole = _predict(slide_path, model, some_spots)
    assert whole.run["regions"] == 1
    assert np.abs(regions.expression - whole.expression).max() > 1e-3
    # cells by hand, (700, 600) being in the second column: [1, 3, 6], [0, 4, 7, 8], [2], [5];
    # spot 2 joins the cell of spot 8, its nearest; spot 5 that of spot 3
    for rows in ([1, 3, 5, 6], [0, 2, 4, 7, 8]):
        part = replace(
            some_spots, level0_xy=some_spots.level0_xy[rows], grid_rc=some_spots.grid_rc[rows]
        )
        alone = _predict(slide_path, model, part)
        assert np.abs(regions.expression[rows] - alone.expression).max() <= MAX_ABS


def test_facts_say_where_the_time_went(slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(fake_config(), delay_s=0.02)
    run = _predict(slide_path, model, some_spots, threads=2, batch_size=4).run
    graphs = set(model.sessions)
    assert graphs <= set(run["timings_s"])
    assert graphs <= set(run["cpu_s"])
    assert sum(run["timings_s"][name] for name in graphs) <= run["timings_s"]["total"]
    assert run["idle_s"]["encode source"] > 0.02  # the workers are slower than the reading
    assert set(run["idle_s"]) == {
        f"{stage} {thread}"
        for stage in ("encode", "predict")
        for thread in ("source", "workers", "caller")
    }
