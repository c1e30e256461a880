"""A prediction says how like the training tissue its slide is, and may refuse another."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.few_parity_cases import few_parity_cases
from triplex_deploy import PredictOptions, load_bundle, predict_slide
from triplex_deploy.errors import CheckpointError, SlideError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.familiarity import FAMILIARITY, MIN_TILES, TrainingTiles
from triplex_deploy.models import read_checkpoint, write_checkpoint
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline import familiar
from triplex_deploy.runtime.model import Model, RunnableBundle

HALF = 112


def target_features(
    model: Model, prediction: Prediction, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the features (N, F) of the tiles around the spots of a grid."""
    corners = (prediction.level0_xy - HALF).round().astype(int)
    tiles = [pixels[y : y + 2 * HALF, x : x + 2 * HALF] for x, y in corners]
    features: NDArray[np.float32] = model.run("tile_encoder", {"tiles": np.stack(tiles)})[
        "features"
    ]
    return features


@pytest.fixture(scope="module")
def bundles(
    tiny_checkpoint: Path,
    slide_path: Path,
    slide_pixels: NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, RunnableBundle]:
    """The tiny model: not described, and described as trained on tiles like these or on others."""
    folder = tmp_path_factory.mktemp("described")
    checkpoint = read_checkpoint(tiny_checkpoint)
    with few_parity_cases():
        export_bundle(tiny_checkpoint, folder / "plain")
        made = {"plain": load_bundle(folder / "plain")}
        with made["plain"].open(device="cpu") as model:
            seen = target_features(model, predict_slide(slide_path, model), slide_pixels)
        noise = np.random.default_rng(0).normal(0, 1, (4 * MIN_TILES, seen.shape[1]))
        near = seen.mean(axis=0) + 2 * seen.std(axis=0) * noise
        for name, features in (("like", near), ("unlike", near + 100 * seen.std())):
            tiles = TrainingTiles.describe([features.astype(np.float32)])
            write_checkpoint(replace(checkpoint, training_tiles=tiles), folder / f"{name}.ckpt")
            export_bundle(folder / f"{name}.ckpt", folder / name)
            made[name] = load_bundle(folder / name)
    return made


def predict(bundle: RunnableBundle, slide: Path, how: str = "warn") -> Prediction:
    with bundle.open(device="cpu") as model:
        return predict_slide(slide, model, PredictOptions(unfamiliar=how))  # type: ignore[arg-type]


def test_every_spot_has_its_familiarity(
    bundles: dict[str, RunnableBundle],
    slide_path: Path,
    slide_pixels: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    prediction = predict(bundles["like"], slide_path)
    with bundles["like"].open(device="cpu") as model:
        features = target_features(model, prediction, slide_pixels)
    training = read_checkpoint(bundles["like"].path.with_suffix(".ckpt")).training_tiles
    assert training is not None
    assert prediction.familiarity is not None
    np.testing.assert_allclose(
        prediction.familiarity, training.familiarity(features), rtol=0, atol=1e-3
    )
    assert len(np.unique(prediction.familiarity)) > 1
    prediction.write_h5ad(tmp_path / "slide.h5ad")
    again = read_prediction(tmp_path / "slide.h5ad")
    assert again.familiarity is not None
    np.testing.assert_array_equal(again.familiarity, prediction.familiarity)
    assert prediction.run["tissue"] == "like the training tissue"
    assert prediction.run["unfamiliar_spots"] < 0.05


def test_other_tissue_is_warned_of_or_refused(
    bundles: dict[str, RunnableBundle], slide_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prediction = predict(bundles["unlike"], slide_path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        f"{slide_path}: unlike the tissue that the model was trained on (100%"
    )
    assert prediction.run["tissue"] == "unlike the training tissue"
    assert prediction.run["unfamiliar_spots"] == 1
    with pytest.raises(SlideError, match="use a model for such slides, or pass --unfamiliar warn"):
        predict(bundles["unlike"], slide_path, "fail")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predict(bundles["unlike"], slide_path, "ignore")
        predict(bundles["like"], slide_path, "fail")
    assert not caplog.records


def test_the_metadata_say_what_speaks_against_he(
    bundles: dict[str, RunnableBundle], slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hardly_he" not in predict(bundles["plain"], slide_path).run
    monkeypatch.setattr(familiar, "not_brightfield_he", lambda _: "it is dark")
    assert predict(bundles["plain"], slide_path).run["hardly_he"] == "it is dark"
    with pytest.raises(SlideError, match=r"hardly an H&E slide in brightfield \(it is dark\)"):
        predict(bundles["plain"], slide_path, "fail")


def test_bundle_that_cannot_tell_says_nothing(
    bundles: dict[str, RunnableBundle], slide_path: Path
) -> None:
    assert FAMILIARITY not in bundles["plain"].manifest.files
    assert FAMILIARITY in bundles["like"].manifest.files
    prediction = predict(bundles["plain"], slide_path, "fail")
    assert prediction.familiarity is None
    assert "tissue" not in prediction.run


def test_expression_does_not_depend_on_it(
    bundles: dict[str, RunnableBundle], slide_path: Path
) -> None:
    plain, like = (predict(bundles[name], slide_path) for name in ("plain", "like"))
    np.testing.assert_array_equal(plain.expression, like.expression)


def test_description_of_other_features_is_refused(tiny_checkpoint: Path) -> None:
    features = np.random.default_rng(0).standard_normal((MIN_TILES, 7), np.float32)
    with pytest.raises(CheckpointError, match="training_tiles: 7 features, the model takes 3"):
        replace(read_checkpoint(tiny_checkpoint), training_tiles=TrainingTiles.describe([features]))
