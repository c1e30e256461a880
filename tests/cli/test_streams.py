"""Streams that are closed, full or of another encoding, names that forge lines, and signals."""

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from triplex_deploy.cli.log_file import close_log_file, note, open_log_file
from triplex_deploy.cli.streams import note_line, print_line
from triplex_deploy.errors import OutputError

cli_main = import_module("triplex_deploy.cli.main")  # the package's main is a function
COMMAND = (sys.executable, "-m", "triplex_deploy.cli")
FORGED = "a\x1b]0;title\x07\nerror: forged"


def _shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    line = f'"$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *arguments], capture_output=True, check=False
    )


def test_full_stderr_stops_nothing() -> None:
    assert _shell("2>/dev/full", "doctor", "--json").stdout.startswith(b"{")
    assert _shell("2>/dev/full", "verify", "nothing").returncode == 1


def test_closed_stderr_sends_nothing_to_stdout() -> None:
    finished = _shell("2>&-", "verify", "nothing")
    assert (finished.returncode, finished.stdout) == (1, b"")


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_full_stdout_is_one_line(option: tuple[str, ...]) -> None:
    finished = _shell(">/dev/full", "doctor", *option)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith(b"error: standard output: cannot be written (No space left")


def test_a_reader_that_stops_reading_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        finished = subprocess.run(
            [*COMMAND, "encoder", "list"], stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_names_cannot_forge_lines(capfd: pytest.CaptureFixture[str]) -> None:
    note_line(FORGED)
    print_line(f"{FORGED}\t12")
    out, err = capfd.readouterr()
    assert out == "a\\x1b]0;title\\x07\\nerror: forged\t12\n"
    assert err == "a\\x1b]0;title\\x07\\nerror: forged\n"


def test_command_line_mistake_shows_no_controls(invoke: Invoke) -> None:
    finished = invoke("predict", FORGED, f"--{FORGED}")
    assert finished.status == 2
    assert "\x1b" not in finished.err
    assert "error: forged" not in finished.err.splitlines()


def test_records_of_the_log_cannot_be_forged(tmp_path: Path, invoke: Invoke) -> None:
    log = tmp_path / "log.txt"
    record = "2026-01-01T00:00:00+0000 INFO triplex_deploy: FORGED"
    assert invoke("verify", f"x\n{record}", "--log-file", log).status == 1
    assert record not in log.read_text().splitlines()


def test_full_disk_of_the_log_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    open_log_file(Path("/dev/full"), "triplex-deploy")
    note(10, "again")
    close_log_file()
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "warning: /dev/full: the log cannot be written (No space left on device)"


INTERRUPTED_IMPORT = """
import importlib, os, signal, sys, time
from triplex_deploy.errors import BackendError

main = importlib.import_module("triplex_deploy.cli.main")  # the package's main is a function
number, becomes = int(sys.argv[1]), {"BackendError": BackendError, "ImportError": ImportError}

def importing(*_, **__):
    try:
        os.kill(os.getpid(), number)
        time.sleep(5)
    except KeyboardInterrupt as error:
        raise becomes[sys.argv[2]]("onnxruntime is not installed") from error

signal.signal(number, signal.default_int_handler)  # nohup starts programs without SIGHUP
main.group.main = importing
sys.exit(main.run(["verify", "x"]))
"""
"""A command in which a signal comes while a library is imported, in a process of its own."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("becomes", ["BackendError", "ImportError"])
def test_signal_that_a_library_turns_into_an_error_is_an_interrupt(
    number: signal.Signals, becomes: str
) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, str(int(number)), becomes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: interrupted; nothing half-written was left\n"


def test_ignored_hangup_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            cli_main.group, "main", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP)
        )
        assert cli_main.run(["verify", "x"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stdout_of_any_encoding_takes_any_name(tmp_path: Path) -> None:
    code = (
        "from triplex_deploy.cli.streams import prepare_streams, print_line, print_text\n"
        "prepare_streams(); print_line('\u00b5\u65e5.tif'); print_text('caf\\udce9')"
    )
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True
    )
    assert finished.stdout == b"\xb5\\u65e5.tif\ncaf\\udce9\n"


def test_more_threads_than_cores_are_lowered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triplex_deploy.cli import shared_options

    monkeypatch.setattr(shared_options, "usable_cores", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert shared_options.ThreadCount().convert("100000", None, None) == 2
    assert "this machine has 2 cores" in caplog.text
    assert shared_options.ThreadCount().convert("2", None, None) == 2


def test_stdout_error_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("triplex_deploy.cli.streams.click.echo", full)
    with pytest.raises(OutputError, match="standard output"):
        print_line("x")
