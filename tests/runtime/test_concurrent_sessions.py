"""Threads share sessions: the outputs are equal, and calls at the same time are safe."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model, RunnableBundle

PATIENCE_S = 60.0
"""A test fails that waits longer than this; what passes never waits."""


def test_calls_on_a_gpu_take_turns() -> None:
    """No GPU is needed, because the lock is tested."""
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
        session._run = run  # type: ignore[method-assign]
    tiles = {"tiles": np.zeros((1, 224, 224, 3), np.uint8)}
    calls = [
        threading.Thread(target=model.concurrent_sessions()[name].run, args=(tiles,))
        for name in ("tile_encoder", "target_encoder") * 3
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert at_once == [1] * 6


def test_next_call_on_a_gpu_starts_while_outputs_are_copied_back() -> None:
    model = replace(fake_model(fake_config()), device=Device("cuda"))
    second_started = threading.Event()
    started: list[str] = []

    def submit(name: str) -> Callable[[], dict[str, np.ndarray]]:
        started.append(name)
        if len(started) == 2:
            second_started.set()

        def copy_back() -> dict[str, np.ndarray]:
            assert second_started.wait(PATIENCE_S), "the first copy keeps the second call out"
            return {name: np.ones(1)}

        return copy_back

    found: list[dict[str, np.ndarray]] = []
    calls = []
    for name in ("tile_encoder", "target_encoder"):
        model.sessions[name]._submit = lambda _, name=name: submit(name)  # type: ignore[method-assign,misc]
        session = model.concurrent_sessions()[name]
        tiles = {"tiles": np.zeros((1, 224, 224, 3), np.uint8)}
        calls.append(
            threading.Thread(target=lambda s=session, t=tiles: found.append(s.run(t)), daemon=True)
        )
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(name for outputs in found for name in outputs) == [
        "target_encoder",
        "tile_encoder",
    ]


def test_single_threaded_sessions_give_the_same_bits(model: Model) -> None:
    """They do at every batch size: a run that is resumed may have other batches."""
    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)
    whole = model.run("tile_encoder", {"tiles": tiles})["features"]
    sessions = model.concurrent_sessions()
    assert sessions["global_encoder"] is model.sessions["global_encoder"]
    encoder = sessions["tile_encoder"]
    assert encoder is not model.sessions["tile_encoder"]
    for size in (1, 2, 3):
        parts = [tiles[begin : begin + size] for begin in range(0, 5, size)]
        found = np.concatenate([encoder.run({"tiles": part})["features"] for part in parts])
        np.testing.assert_array_equal(found, whole)


def test_sessions_are_opened_once_and_closed_with_the_model(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu") as model:
        first = model.concurrent_sessions()
        assert model.concurrent_sessions() is first
        encoder = first["tile_encoder"]
    with pytest.raises(BackendError, match="closed"):
        encoder.run({"tiles": np.zeros((1, 224, 224, 3), np.uint8)})
