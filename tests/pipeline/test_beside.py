"""What runs beside the encoding gives the results and errors that it gave before it."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy import open_slide, predict_slide
from triplex_deploy.errors import BackendError, SlideError, SpotsError
from triplex_deploy.outputs.prediction import THUMBNAIL_MAX_PX
from triplex_deploy.pipeline import predict, prepared
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session
from triplex_deploy.slides import thumbnail
from triplex_deploy.spots import Spots, mask_overlay, tissue_mask


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in threading.enumerate() if thread not in before]


def _broken(*_: Any) -> Any:
    raise SlideError("the thumbnail broke")


def test_pictures_are_those_of_the_slide(slide_path: Path) -> None:
    found = predict_slide(slide_path, fake_model(fake_config()))
    with open_slide(slide_path) as slide:
        wanted = thumbnail(slide, THUMBNAIL_MAX_PX)
        tissue = tissue_mask(slide, 0.5)
    np.testing.assert_array_equal(found.thumbnail, wanted)
    assert found.tissue_overlay is not None
    np.testing.assert_array_equal(found.tissue_overlay, mask_overlay(wanted, tissue))


def test_thumbnail_is_drawn_while_tiles_are_encoded(
    slide_path: Path, some_spots: Spots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the first call of an encoder, which would never come if it were made first."""
    model = fake_model(fake_config())
    encoding = threading.Event()
    run = model.sessions["tile_encoder"].run

    def encode(inputs: Any) -> Any:
        encoding.set()
        return run(inputs)

    monkeypatch.setattr(model.sessions["tile_encoder"], "run", encode)

    def draw(*arguments: Any) -> Any:
        assert encoding.wait(10)
        return thumbnail(*arguments)

    monkeypatch.setattr(prepared, "thumbnail", draw)
    found = predict_slide(slide_path, model, PredictOptions(spots=some_spots, batch_size=2))
    assert found.thumbnail.any()


def test_error_of_the_thumbnail_ends_the_encoding(
    slide_path: Path, some_spots: Spots, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(fake_config(), delay_s=0.05)
    monkeypatch.setattr(prepared, "thumbnail", _broken)
    with pytest.raises(SlideError, match="the thumbnail broke"):
        predict_slide(slide_path, model, PredictOptions(spots=some_spots, batch_size=1))
    calls: list[int] = model.sessions["fusion_head"].calls  # type: ignore[attr-defined]
    assert not calls


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (lambda spots: PredictOptions(spots=spots), "the thumbnail broke"),
        (lambda _: PredictOptions(spots=_elsewhere()), "outside the slide"),
    ],
)
def test_first_error_is_that_of_the_spots_then_of_the_thumbnail(
    slide_path: Path,
    some_spots: Spots,
    options: Callable[[Spots], PredictOptions],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tile cannot be read either, and which thread is first must not matter."""
    tile_broke = threading.Event()

    def break_tile(*_: Any) -> Any:
        tile_broke.set()
        raise SlideError("a tile broke")

    def break_later(*_: Any) -> Any:
        tile_broke.wait(0.5)  # the event is not set if the spots are wrong
        raise SlideError("the thumbnail broke")

    monkeypatch.setattr(predict, "encode_tiles", break_tile)
    monkeypatch.setattr(prepared, "thumbnail", break_later)
    with pytest.raises((SlideError, SpotsError), match=wanted):
        predict_slide(slide_path, fake_model(fake_config()), options(some_spots))


def _elsewhere() -> Spots:
    return Spots(np.array([[1e6, 1e6]]), np.array([[0, 0]]), "file", 100.0)


def test_error_of_the_slide_goes_before_that_of_the_sessions(
    tmp_path: Path, slide_path: Path, some_spots: Spots, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(fake_config())
    monkeypatch.setattr(Model, "concurrent_sessions", _no_sessions)
    with pytest.raises(SlideError, match=r"nothing\.tif"):
        predict_slide(tmp_path / "nothing.tif", model)
    with pytest.raises(BackendError, match="no sessions"):
        predict_slide(slide_path, model, PredictOptions(spots=some_spots))


def _no_sessions(_: Model) -> Mapping[str, Session]:
    raise BackendError("no sessions")


def test_every_graph_is_prepared_those_of_tiles_first(
    slide_path: Path, some_spots: Spots, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(fake_config())
    events: list[str] = []
    for name, session in model.sessions.items():
        monkeypatch.setattr(session, "prepare", lambda name=name: events.append(f"prepare {name}"))
    predict_slide(slide_path, model, PredictOptions(spots=some_spots))
    assert set(events) == {f"prepare {name}" for name in model.sessions}
    assert events[:2] == ["prepare tile_encoder", "prepare target_encoder"]
