"""Sessions that lanes share: alike in what they give, and safe to call at the same time."""

import threading
import time
from dataclasses import replace

import numpy as np

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy.pipeline.sessions import lane_sessions
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model


def test_calls_on_a_gpu_take_turns() -> None:
    """Stands in for a GPU, which no test machine need have: the lock is what is tested."""
    model = replace(fake_model(fake_config()), device=Device("cuda"))
    at_once: list[int] = []
    inside = 0

    def run(inputs: object) -> dict[str, np.ndarray]:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        time.sleep(0.02)
        inside -= 1
        return {}

    for session in model.sessions.values():
        assert isinstance(session, FakeSession)
        session._run = run  # type: ignore[method-assign, assignment]
    tiles = {"tiles": np.zeros((1, 224, 224, 3), np.uint8)}
    with lane_sessions(model) as sessions:
        calls = [
            threading.Thread(target=sessions[name].run, args=(tiles,))
            for name in ("tile_encoder", "target_encoder") * 3
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
    assert at_once == [1] * 6


def test_single_threaded_sessions_give_the_same_bits(model: Model) -> None:
    """At every batch size: a run that was cut off may batch its tiles otherwise."""
    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)
    whole = model.run("tile_encoder", {"tiles": tiles})["features"]
    with lane_sessions(model) as sessions:
        assert sessions["global_encoder"] is model.sessions["global_encoder"]
        encoder = sessions["tile_encoder"]
        assert encoder is not model.sessions["tile_encoder"]
        for size in (1, 2, 3):
            parts = [tiles[begin : begin + size] for begin in range(0, 5, size)]
            found = np.concatenate([encoder.run({"tiles": part})["features"] for part in parts])
            np.testing.assert_array_equal(found, whole)
