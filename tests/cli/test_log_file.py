"""``--log-file``: what it holds, that it does not change the screen, and what is refused."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (DEBUG|INFO|WARNING|ERROR) ")


def test_log_has_the_command_the_traceback_and_the_status(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "läuft nicht.log"
    finished = invoke("verify", tmp_path / "nichts ü", "--log-file", log)
    assert (finished.status, finished.out) == (1, "")
    assert len(finished.err.splitlines()) == 1, "the traceback is for the file"
    lines = log.read_text(encoding="utf-8").splitlines()
    assert STAMP.match(lines[0])
    assert "triplex-deploy verify" in lines[0]
    assert "nichts ü" in lines[0]
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].endswith("exit status 1")


def test_log_is_appended_to_and_has_all_even_when_quiet(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    for _ in range(2):
        finished = invoke("doctor", "-q", "--log-file", log)
        assert (finished.status, finished.err) == (0, "")
    assert log.read_text(encoding="utf-8").count("exit status 0") == 2
    invoke("doctor")
    assert log.read_text(encoding="utf-8").count("exit status 0") == 2, "the file was let go"


def test_wrong_usage_is_logged(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert invoke("verify", "--log-file", log).status == 2
    assert "Missing argument 'BUNDLE'" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["no folder/run.log", "."])
def test_log_that_cannot_be_opened_stops_before_the_work(
    invoke: Invoke, tmp_path: Path, name: str
) -> None:
    finished = invoke("demo", "--out", tmp_path / "out", "--log-file", tmp_path / name)
    assert finished.status == 1
    (line,) = finished.err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}: cannot be opened as a log (")
    assert not (tmp_path / "out").exists()
