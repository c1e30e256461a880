"""The clock of consecutive stages: they add up to the elapsed time."""

import time

import pytest

from triplex_deploy.progress import WallClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows the only number of the list."""
    shown = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: shown[0])
    return shown


def test_stages_add_up_to_the_elapsed_time(now: list[float]) -> None:
    clock = WallClock({"start-up": 1.5})
    with clock.stage("read"):
        now[0] += 2
    now[0] += 0.25
    with clock.stage("read"):
        now[0] += 1
    assert clock.stages() == {"start-up": 1.5, "read": 3.0, "other": 0.25, "total": 4.75}


def test_stages_of_a_clock_within_are_taken_over(now: list[float]) -> None:
    outer = WallClock()
    now[0] += 0.5
    inner = WallClock()
    with inner.stage("encode"):
        now[0] += 3
    now[0] += 1
    outer.take(inner.stages())
    assert outer.stages() == {"encode": 3.0, "other": 1.5, "total": 4.5}
