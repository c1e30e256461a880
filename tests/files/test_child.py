"""A child process that a signal ends, that works for ever, that waits for ever."""

import sys
from collections.abc import Callable

import pytest

from triplex_deploy.files import child
from triplex_deploy.files.child import signal_that_ends

pytestmark = pytest.mark.lengthy


@pytest.fixture
def python() -> Callable[[str, float], str | None]:
    def run(code: str, limit_s: float = 30.0) -> str | None:
        return signal_that_ends([sys.executable, "-I", "-S", "-c", code], limit_s)

    return run


@pytest.mark.parametrize(
    ("code", "ended_by"),
    [
        ("", None),
        ("raise SystemExit(3)", None),
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ],
)
def test_signal_is_named(
    code: str, ended_by: str | None, python: Callable[..., str | None]
) -> None:
    assert python(code) == ended_by


def test_work_without_end_is_stopped_by_its_cpu_time(python: Callable[..., str | None]) -> None:
    with pytest.raises(TimeoutError, match="1 s of CPU time"):
        python("while True: pass", 1.0)


def test_waiting_without_end_is_stopped_by_the_clock(
    python: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "WAITING_FACTOR", 0.3)
    with pytest.raises(TimeoutError, match="no end within 0 s"):
        python("import time; time.sleep(60)", 1.0)


def test_program_that_cannot_be_started_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        signal_that_ends(["/no/such/program"], 1.0)
