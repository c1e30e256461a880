"""Progress: bars with the time left in a terminal, plain lines elsewhere."""

import pytest

from triplex_deploy.cli import progress
from triplex_deploy.cli.progress import StageBars
from triplex_deploy.cli.shared import set_verbosity, start_logging


def _work(n: int) -> None:
    with StageBars() as bars:
        bars.start("encoding tiles", n)
        for _ in range(n):
            bars.advance(1)


def test_terminal_shows_count_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    _work(4)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "encoding tiles" in shown.err
    assert "4/4" in shown.err
    assert "0:00:00" in shown.err


def test_elsewhere_stages_are_lines_and_long_ones_tell_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    _work(3)
    assert capsys.readouterr().err == "encoding tiles: 3\n"
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    _work(2)
    assert capsys.readouterr().err.splitlines() == [
        "encoding tiles: 2",
        "encoding tiles: 1 of 2",
        "encoding tiles: 2 of 2",
    ]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging()
    set_verbosity(-1)
    try:
        _work(3)
    finally:
        set_verbosity(0)
    assert capsys.readouterr().err == ""
