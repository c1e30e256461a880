"""The clock of consecutive stages, which add up to the elapsed time, and progress on stderr."""

import io
import sys
import time

import pytest

from triplex_deploy.progress import Lines, Silent, WallClock, shown


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


class Screen(io.StringIO):
    """A stderr that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_a_file_gets_a_line_at_both_ends_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=False))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    lines = Lines("slide.svs")
    lines.start("encoding tiles", 3)
    for _ in range(3):
        lines.advance(1)
    assert screen.getvalue() == (
        "slide.svs: encoding tiles: 0 of 3\nslide.svs: encoding tiles: 3 of 3\n"
    )


def test_a_terminal_has_one_line_for_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(is_terminal=True))
    lines = Lines()
    lines.start("epochs", 2)
    lines.advance(2)
    assert screen.getvalue() == "\repochs: 0 of 2\repochs: 2 of 2\n"


def test_a_stderr_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    lines = Lines()
    lines.start("epochs", 1)
    lines.advance(1)


def test_progress_is_chosen_by_true_false_or_an_object() -> None:
    assert isinstance(shown(False), Silent)
    assert isinstance(shown(None), Silent)
    assert isinstance(shown(True), Lines)
    own = Lines("mine")
    assert shown(own) is own
