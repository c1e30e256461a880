"""Errors and Ctrl-C end a prediction within two seconds, with no thread and no file left."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
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


@dataclass(frozen=True)
class Interrupted:
    """What a prediction left that was interrupted with Ctrl-C."""

    ended_as: str
    within_s: float
    threads: list[str]


def _interrupt(
    slide: Path, spots: Spots, cache: Path | None, delay_s: float, calls: int, answer: Connection
) -> None:
    """Predict, and press Ctrl-C after so many calls of the tile encoder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = fake_model(fake_config(), delay_s=delay_s)
    with open_slide(slide) as opened:
        thumbnail(opened, 10)
    before = set(threading.enumerate())
    pressed: list[float] = []

    def press() -> None:
        while len(getattr(model.sessions["tile_encoder"], "calls", ())) < calls:
            time.sleep(0.005)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press, name="finger")
    finger.start()
    ended_as = "a prediction"
    try:
        predict_slide(slide, model, PredictOptions(spots=spots, batch_size=1, cache=cache))
    except KeyboardInterrupt:
        ended_as = "KeyboardInterrupt"
    within_s = time.monotonic() - pressed[0]
    finger.join()
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    answer.send(Interrupted(ended_as, within_s, left))


@pytest.fixture
def interrupted(slide_path: Path, some_spots: Spots) -> Callable[..., Interrupted]:
    """Interrupt a prediction in a process of its own: a late signal would end the test run."""

    def run(delay_s: float, calls: int, cache: Path | None = None) -> Interrupted:
        context = get_context("spawn")
        here, there = context.Pipe(duplex=False)
        arguments = (slide_path, some_spots, cache, delay_s, calls, there)
        process = context.Process(target=_interrupt, args=arguments)
        process.start()
        there.close()
        try:
            answer: Interrupted = here.recv()
        finally:
            process.join(60)
        assert process.exitcode == 0
        return answer

    return run


@pytest.mark.parametrize("delay_s", [0.01, 0.5])
def test_ctrl_c_ends_the_prediction(
    delay_s: float, interrupted: Callable[..., Interrupted]
) -> None:
    left = interrupted(delay_s, calls=3)
    assert left.ended_as == "KeyboardInterrupt"
    assert left.within_s < WITHIN_S
    assert left.threads == []


def test_ctrl_c_leaves_whole_files_in_the_cache_alone(
    interrupted: Callable[..., Interrupted], slide_path: Path, some_spots: Spots, tmp_path: Path
) -> None:
    """The features encoded so far are kept, and the next run uses them."""
    assert interrupted(0.02, calls=20, cache=tmp_path).ended_as == "KeyboardInterrupt"
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".npz"}
    options = PredictOptions(spots=some_spots, batch_size=1, cache=tmp_path)
    resumed = predict_slide(slide_path, fake_model(fake_config()), options)
    assert 5 < resumed.run["tiles_from_cache"] < resumed.run["tiles_encoded"]
