"""Predictions with shared tiles equal those of a plain loop over the spots."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.reference import predict_one_by_one
from triplex_deploy import open_slide, predict_slide
from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots, read_spots
from triplex_deploy.tiles import SlideView

MAX_ABS = 1e-5


def _spots(level0_xy: Sequence[tuple[float, float]], grid_rc: list[tuple[int, int]]) -> Spots:
    return Spots(np.array(level0_xy, np.float64), np.array(grid_rc, np.int64), "file", 100.0)


def _pixels(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, *slide.level_sizes[0])


def _assert_like_the_loop(prediction: Prediction, path: Path, model: Model) -> None:
    centers = np.floor(prediction.level0_xy + 1e-6).astype(np.int64)
    wanted = predict_one_by_one(_pixels(path), centers, prediction.grid_rc, model)
    assert np.abs(prediction.expression - wanted).max() <= MAX_ABS
    assert np.ptp(wanted) > 1000 * MAX_ABS, "the predictions must vary to tell"


def test_grid_equals_the_loop(slide_path: Path, model: Model) -> None:
    prediction = predict_slide(slide_path, model)
    assert prediction.run["sharing"] > 3
    assert prediction.run["tiles_encoded"] < prediction.n_spots * 4
    _assert_like_the_loop(prediction, slide_path, model)


def test_irregular_spots_and_slide_edges_equal_the_loop(slide_path: Path, model: Model) -> None:
    """Corners, borders touched exactly, tiles partly off the slide, tiles shared or overlapping."""
    spots = _spots(
        [
            (0.0, 0.0),
            (1399.9, 1199.9),
            (560, 560),
            (559, 561),
            (784, 560),
            (112, 600),
            (783.4, 336),
        ],
        [(0, 0), (9, 9), (4, 4), (4, 5), (5, 6), (4, 0), (2, 5)],
    )
    prediction = predict_slide(slide_path, model, PredictOptions(spots=spots, batch_size=5))
    assert prediction.run["tiles_encoded"] < prediction.run["tiles_without_sharing"]
    _assert_like_the_loop(prediction, slide_path, model)


@pytest.mark.slow
def test_her2st_spots_equal_the_loop(shared_data: Path, model: Model) -> None:
    """Real, jittered spots of C3: the first and last rows of the array and a patch inside."""
    image = shared_data / "her2st/ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    spots = read_spots(shared_data / "her2st/ST-spotfiles/C3_selection.tsv")
    order = np.lexsort(spots.grid_rc.T)
    chosen = np.concatenate([order[:2], order[len(order) // 2 :][:4], order[-2:]])
    # A nominal mpp equal to the bundle's keeps the pixels as they are. It is not that of the ST
    # array, which is therefore left out.
    some = replace(
        spots,
        level0_xy=spots.level0_xy[chosen],
        grid_rc=spots.grid_rc[chosen],
        barcodes=(),
        array=None,
    )
    prediction = predict_slide(image, model, PredictOptions(spots=some, mpp=0.5))
    _assert_like_the_loop(prediction, image, model)


def test_shuffled_spots_predict_the_same(slide_path: Path, model: Model) -> None:
    rng = np.random.default_rng(0)
    cells = [(row, col) for row in range(4) for col in range(3)]
    places = [(300 + 150 * col + 9 * row, 250 + 160 * row) for row, col in cells]
    spots = _spots(places, cells)
    order = rng.permutation(len(cells))
    shuffled = replace(spots, level0_xy=spots.level0_xy[order], grid_rc=spots.grid_rc[order])
    straight = predict_slide(slide_path, model, PredictOptions(spots=spots))
    mixed = predict_slide(slide_path, model, PredictOptions(spots=shuffled))
    assert mixed.spot_names == tuple(straight.spot_names[i] for i in order)
    assert np.abs(mixed.expression - straight.expression[order]).max() <= MAX_ABS


def test_batch_size_and_token_file_change_nothing(slide_path: Path, model: Model) -> None:
    whole = predict_slide(slide_path, model)
    pieces = predict_slide(slide_path, model, PredictOptions(batch_size=7, memory_gb=0.2))
    assert np.abs(whole.expression - pieces.expression).max() <= MAX_ABS


def test_single_spot_is_predicted(slide_path: Path, model: Model) -> None:
    one = _spots([(700.0, 600.0)], [(3, 3)])
    prediction = predict_slide(slide_path, model, PredictOptions(spots=one))
    assert prediction.expression.shape == (1, 30)
    _assert_like_the_loop(prediction, slide_path, model)


def test_chosen_genes_come_in_the_order_asked(slide_path: Path, model: Model) -> None:
    one = _spots([(700.0, 600.0), (800.0, 600.0)], [(3, 3), (3, 4)])
    everything = predict_slide(slide_path, model, PredictOptions(spots=one))
    some = predict_slide(slide_path, model, PredictOptions(spots=one, genes=("ACTB", "GNAS")))
    assert some.genes == ("ACTB", "GNAS")
    np.testing.assert_array_equal(some.expression[:, 1], everything.expression[:, 0])


@pytest.mark.parametrize(
    ("genes", "named"),
    [
        (("GNSA",), "did you mean GNAS"),
        (("QQQ",), "QQQ"),
        (("GNAS", "GNAS"), "twice"),
        ((), "none"),
    ],
)
def test_gene_the_bundle_lacks_is_named(
    slide_path: Path, model: Model, genes: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        predict_slide(slide_path, model, PredictOptions(genes=genes))


def test_visium_layout_predicts_on_its_lattice(slide_path: Path, model: Model) -> None:
    prediction = predict_slide(slide_path, model, PredictOptions(layout="visium"))
    rows, columns = prediction.grid_rc.T
    assert ((rows + columns) % 2 == 0).all()
    assert prediction.spot_diameter_px == pytest.approx(110)


def test_grid_tiles_abut_when_the_slide_is_scaled(slide_path: Path, model: Model) -> None:
    """At another mpp the view is resampled; the grid must still share every tile."""
    prediction = predict_slide(slide_path, model, PredictOptions(mpp=0.37))
    with open_slide(slide_path) as slide:
        view = SlideView.open(slide, 0.37, 0.5)
        spots, _ = place_spots(slide, 0.37, view, PredictOptions(mpp=0.37))
        centers = view.centers(spots.level0_xy)
    assert ((centers - 112) % 224 == 0).all()
    assert prediction.run["tiles_encoded"] <= (view.size_wh[0] // 224) * (view.size_wh[1] // 224)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layout": "hex"}, "layout 'hex'"),
        ({"pitch_um": -1.0}, "pitch_um=-1.0"),
        ({"pitch_um": float("nan")}, "pitch_um=nan"),
        ({"pitch_um": 0.5}, "pitch_um=0.5"),
        ({"memory_gb": float("nan")}, "memory_gb=nan"),
        ({"spots": "s.csv", "layout": "grid"}, "layout: spots are given"),
        ({"spots": "s.csv", "all_tiles": True}, "all_tiles: spots are given"),
        ({"mask": "m.png", "all_tiles": True}, "contradicts the mask"),
        ({"on_bad_tile": "ignore"}, "on_bad_tile 'ignore'"),
        ({"pitch_um": 100.0, "layout": "visium"}, "pitch_um"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"memory_gb": 0.0}, "memory_gb=0.0"),
    ],
)
def test_bad_option_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PredictOptions(**options)  # type: ignore[arg-type]
