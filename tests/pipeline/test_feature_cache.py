"""Cached tile features are used only for the same content, and are checked before use."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy import predict_slide
from triplex_deploy.errors import ConfigError, SlideError
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.feature_cache import FeatureCache, open_cache
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.model import Model
from triplex_deploy.slides import open_slide
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.view import SlideView


def _predict(path: Path, model: Model, spots: Spots, cache: Path, **more: object) -> Prediction:
    return predict_slide(path, model, PredictOptions(spots=spots, cache=cache, **more))  # type: ignore[arg-type]


def _calls(model: Model, graph: str) -> list[int]:
    session = model.sessions[graph]
    assert isinstance(session, FakeSession)
    return session.calls


def test_second_run_encodes_no_tile_again(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    first = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    model = fake_model(fake_config())
    second = _predict(slide_path, model, some_spots, tmp_path)
    np.testing.assert_array_equal(second.expression, first.expression)
    assert second.run["tiles_from_cache"] == first.run["tiles_encoded"]
    assert _calls(model, "tile_encoder") == [1]  # the tile in place of masked neighbors
    assert sum(_calls(model, "target_encoder")) == 9


@pytest.mark.parametrize("model_name", ["nem", "gem"])
def test_another_model_without_a_target_view_reads_no_pixels(
    model_name: str, slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    other = fake_config(model=model_name, n_genes=4)
    cached = _predict(slide_path, fake_model(other), some_spots, tmp_path)
    fresh = _predict(slide_path, fake_model(other), some_spots, tmp_path / "empty")
    assert cached.run["slide_tiles_decoded"] == 0
    assert cached.run["tiles_encoded"] == 0
    np.testing.assert_array_equal(cached.expression, fresh.expression)


def test_other_spots_of_the_slide_take_the_tiles_that_are_known(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    few = Spots(some_spots.level0_xy[:4], some_spots.grid_rc[:4], "file", 100.0)
    first = _predict(slide_path, fake_model(fake_config()), few, tmp_path)
    all_of_them = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    fresh = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path / "empty")
    assert all_of_them.run["tiles_from_cache"] == first.run["tiles_encoded"]
    np.testing.assert_array_equal(all_of_them.expression, fresh.expression)


def test_other_content_scale_or_encoder_has_a_cache_of_its_own(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    changed = tmp_path / "tissue.tif"
    shutil.copy(slide_path, changed)
    with changed.open("ab") as stream:
        stream.write(b"\0")
    cache = tmp_path / "cache"
    _predict(slide_path, fake_model(fake_config()), some_spots, cache)
    runs = [
        _predict(changed, fake_model(fake_config()), some_spots, cache),
        _predict(slide_path, fake_model(fake_config()), some_spots, cache, mpp=0.4),
        _predict(slide_path, fake_model(fake_config(), weights="other"), some_spots, cache),
        _predict(slide_path, fake_model(fake_config()), some_spots, cache, on_bad_tile="skip"),
    ]
    assert [done.run["tiles_from_cache"] for done in runs] == [0, 0, 0, 0]
    assert len(list(cache.iterdir())) == 5


def test_copy_of_a_slide_under_another_name_shares_its_features(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.tif"
    shutil.copy(slide_path, copy)
    _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path / "cache")
    again = _predict(copy, fake_model(fake_config()), some_spots, tmp_path / "cache")
    assert again.run["tiles_from_cache"] > 50


@pytest.mark.parametrize("damage", ["flipped byte", "cut short", "empty", "foreign", "text"])
def test_damaged_cache_is_rebuilt_with_a_warning(
    damage: str,
    slide_path: Path,
    some_spots: Spots,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "flipped byte":
        content[len(content) * 3 // 4] ^= 1
    elif damage == "cut short":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    elif damage == "foreign":
        FeatureCache(file.parent, "another key", 10)._write(
            np.zeros((1, 2), np.int64), np.zeros((1, 10), np.float32)
        )
    else:
        content[:] = b"no archive"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    assert "its tiles are encoded again" in caplog.text
    np.testing.assert_array_equal(again.expression, first.expression)
    third = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    assert third.run["tiles_from_cache"] == first.run["tiles_encoded"]


def test_no_damaged_byte_of_a_cache_file_escapes(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key", 3)
    cache._write(np.zeros((2, 2), np.int64), np.ones((2, 3), np.float32))
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            for _, features in cache.parts():
                assert features.shape == (2, 3)


@pytest.mark.parametrize("damage", ["altered values", "folder"])
def test_altered_values_in_a_valid_archive_are_noticed(
    damage: str,
    slide_path: Path,
    some_spots: Spots,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    with np.load(file) as content:
        arrays = dict(content)
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        arrays["features"] = np.full_like(arrays["features"], 7.0)
        np.savez(file, **arrays)
    with caplog.at_level(logging.WARNING):
        again = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    assert ("is a folder" if damage == "folder" else "not those that were written") in caplog.text
    assert again.run["tiles_from_cache"] == 0
    np.testing.assert_array_equal(again.expression, first.expression)


def test_files_of_others_in_the_cache_are_left_alone(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    foreign = file.with_name("results.npz")
    np.savez(foreign, measured=np.ones(3))
    second = _predict(slide_path, fake_model(fake_config()), some_spots, tmp_path)
    assert second.run["tiles_from_cache"] > 0
    assert foreign.exists()


@pytest.mark.parametrize("shared", [False, True])
def test_features_of_another_installation_are_used_only_if_the_cache_is_shared(
    shared: bool,
    slide_path: Path,
    some_spots: Spots,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    first = _predict(slide_path, fake_model(fake_config()), some_spots, cache)
    (file,) = cache.rglob("*.npz")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    with caplog.at_level(logging.WARNING):
        again = _predict(
            slide_path, fake_model(fake_config()), some_spots, cache, shared_cache=shared
        )
    assert again.run["tiles_from_cache"] == (first.run["tiles_encoded"] if shared else 0)
    lines = [line for line in caplog.messages if "not written by this installation" in line]
    assert len(lines) == (0 if shared else 1)
    assert file.exists()
    np.testing.assert_array_equal(again.expression, first.expression)


def test_a_shared_folder_of_others_is_used_on_demand(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cache = FeatureCache(tmp_path, "key", 2, is_shared=True)
    cache.add(np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32))
    cache.flush()
    assert len(list(FeatureCache(tmp_path, "key", 2, is_shared=True).parts())) == 1
    assert list(FeatureCache(tmp_path, "key", 2).parts()) == []


def test_altered_values_of_a_shared_cache_are_noticed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "key", 2, is_shared=True)
    cache._write(np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32))
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as content:
        arrays = {**content, "features": np.full((1, 2), 7, np.float32)}
    np.savez(file, **arrays)
    assert list(cache.parts()) == []


def test_sharing_needs_a_cache() -> None:
    with pytest.raises(ConfigError, match="shared_cache: there is no cache"):
        PredictOptions(shared_cache=True)


class _ReplacesTheSlide(Silent):
    """Replaces or removes the slide when a stage starts."""

    def __init__(self, slide: Path, other: Path | None, stage: str) -> None:
        self._slide, self._other, self._stage = slide, other, stage

    def start(self, stage: str, total: int) -> None:
        if stage == self._stage:
            if self._other is None:
                self._slide.unlink()
            else:
                self._other.replace(self._slide)


@pytest.mark.parametrize("other", ["replaced", "removed"])
def test_a_slide_that_is_replaced_leaves_no_features_behind(
    other: str, slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    slide, new, cache = tmp_path / "slide.tif", tmp_path / "new.tif", tmp_path / "cache"
    shutil.copy(slide_path, slide)
    pixels = 255 - tifffile.imread(slide_path)
    tifffile.imwrite(new, pixels, photometric="rgb", tile=(256, 256))
    replacing = _ReplacesTheSlide(slide, new if other == "replaced" else None, "encoding tiles")
    options = PredictOptions(spots=some_spots, cache=cache, mpp=0.5)
    with pytest.raises(SlideError, match=r"replaced while it was read|went away while it was read"):
        predict_slide(slide, fake_model(fake_config()), options, replacing)
    if other == "removed":
        shutil.copy(new, slide)
    cached = predict_slide(slide, fake_model(fake_config()), options)
    fresh = predict_slide(slide, fake_model(fake_config()), PredictOptions(some_spots, mpp=0.5))
    assert cached.run["tiles_from_cache"] == 0
    np.testing.assert_array_equal(cached.expression, fresh.expression)


def test_a_slide_that_is_replaced_before_it_is_digested_has_no_cache(
    slide_path: Path, tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tif"
    shutil.copy(slide_path, slide)
    with open_slide(slide) as opened:
        view = SlideView.open(opened, 0.5, 0.5)
        shutil.copy(slide_path, tmp_path / "new.tif")
        (tmp_path / "new.tif").replace(slide)
        with pytest.raises(SlideError, match="replaced while it was read"):
            open_cache(tmp_path / "cache", view, fake_model(fake_config()), "fail")


def test_cache_that_cannot_be_written_does_not_fail_the_prediction(
    slide_path: Path, some_spots: Spots, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    model = fake_model(fake_config())
    prediction = _predict(slide_path, model, some_spots, tmp_path / "cache")
    assert prediction.run["tiles_from_cache"] == 0
    assert "without the feature cache" in caplog.text


def test_model_without_a_frozen_encoder_has_no_cache(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    _predict(slide_path, fake_model(fake_config(model="tem")), some_spots, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
