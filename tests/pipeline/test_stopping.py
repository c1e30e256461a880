"""Errors and Ctrl-C end a prediction within two seconds, with no thread and no file left."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy import open_slide, predict_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.slides import thumbnail
from triplex_deploy.spots import Spots

pytestmark = pytest.mark.lengthy

WITHIN_S = 2.0


@pytest.fixture(autouse=True)
def _libraries_are_loaded(slide_path: Path) -> None:
    """Load what the first thumbnail of a process loads, which cannot be interrupted."""
    with open_slide(slide_path) as slide:
        thumbnail(slide, 10)


def _assert_no_thread_is_left(before: set[threading.Thread]) -> None:
    assert not [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("graph", ["tile_encoder", "target_encoder", "fusion_head"])
def test_error_of_a_graph_ends_the_prediction(
    graph: str, slide_path: Path, some_spots: Spots
) -> None:
    model = fake_model(fake_config(), delay_s=0.05)
    session = model.sessions[graph]
    assert isinstance(session, FakeSession)
    session.fail_at = 0 if graph == "fusion_head" else 2
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="the graph broke"):
        predict_slide(slide_path, model, PredictOptions(spots=some_spots, batch_size=2))
    assert time.monotonic() - session.failed_s < WITHIN_S
    _assert_no_thread_is_left(before)


@pytest.mark.parametrize("delay_s", [0.01, 0.5])
def test_ctrl_c_ends_the_prediction(delay_s: float, slide_path: Path, some_spots: Spots) -> None:
    model = fake_model(fake_config(), delay_s=delay_s)
    before = set(threading.enumerate())
    pressed: list[float] = []

    def press() -> None:
        while len(getattr(model.sessions["tile_encoder"], "calls", ())) < 3:
            time.sleep(0.005)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press, name="finger")
    finger.start()
    with pytest.raises(KeyboardInterrupt):
        predict_slide(slide_path, model, PredictOptions(spots=some_spots, batch_size=1))
    assert time.monotonic() - pressed[0] < WITHIN_S
    finger.join()
    _assert_no_thread_is_left(before)


def test_ctrl_c_leaves_whole_files_in_the_cache_alone(
    slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    """The features encoded so far are kept, and the next run uses them."""
    model = fake_model(fake_config(), delay_s=0.02)
    options = PredictOptions(spots=some_spots, batch_size=1, cache=tmp_path)

    def press() -> None:
        while len(getattr(model.sessions["tile_encoder"], "calls", ())) < 20:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    with pytest.raises(KeyboardInterrupt):
        predict_slide(slide_path, model, options)
    finger.join()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".npz"}
    resumed = predict_slide(slide_path, model, options)
    assert 5 < resumed.run["tiles_from_cache"] < resumed.run["tiles_encoded"]
