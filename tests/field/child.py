"""Run a command in a process of its own, with limits of time and memory, and judge how it ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
PATIENCE = float(os.environ.get("FIELD_PATIENCE", "1"))
"""Factor of all limits of time, for a machine with other work."""
UNEXPECTED = re.compile(r"unexpected \w*(Error|error|Exception)\b")
"""What the command line says of an error that is a bug of ours."""
INTERRUPTED = 130
"""Exit status after SIGINT, SIGTERM and SIGHUP."""


_RUNNING: set[int] = set()
"""Process groups of the commands that run now."""
_STOPPED = threading.Event()


@contextmanager
def registered(pid: int) -> Iterator[None]:
    """Hold a process, which leads a group of its own, among those that ``stop_all`` ends."""
    _RUNNING.add(pid)
    try:
        if _STOPPED.is_set():
            _kill_group(pid)
        yield
    finally:
        _RUNNING.discard(pid)


def stop_all() -> None:
    """End every registered process with its group, at once; those that start later end, too."""
    _STOPPED.set()
    for pid in tuple(_RUNNING):
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    """Exit status; minus the number of the signal if a signal ended it."""
    out: str
    """What it wrote to stdout."""
    err: str
    """What it wrote to stderr."""
    seconds: float
    """Wall time."""
    peak_gb: float
    """Largest memory of the process."""
    hung: bool
    """Whether it was killed because its time was up."""

    @property
    def errors(self) -> list[str]:
        """Lines that begin with ``error: ``."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def misbehaves(self) -> str:
        """Why the end is wrong whatever was fed; an empty text if nothing is wrong."""
        if self.hung:
            return f"hangs: killed after {self.seconds:.0f} s"
        if self.status < 0:
            return f"dies of {signal.Signals(-self.status).name}"
        text = self.out + self.err
        if found := UNEXPECTED.search(text):
            return "'" + text[found.start() :].splitlines()[0][:90] + "'"
        if "Traceback (most recent" in text:
            return "prints a traceback"
        return ""

    def __str__(self) -> str:
        last = (self.errors or self.err.splitlines() or self.out.splitlines() or [""])[-1]
        return self.misbehaves or f"exit {self.status}, {last[:150]}"


def run_command(
    command: Sequence[str | Path | bytes],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    limit_s: float = 60.0,
    memory_gb: float = 12.0,
    kill_after: tuple[float, int] | None = None,
    stderr: int | None = None,
) -> Outcome:
    """Run a command to its end.

    Args:
        command: The command.
        cwd: Working folder.
        env: Variables to set in addition; None for none.
        limit_s: Seconds after which the process group is killed.
        memory_gb: Address space of the process.
        kill_after: Seconds after which a signal is sent to it, and the signal.
        stderr: File descriptor for stderr, in place of the captured one.
    """

    def limit() -> None:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_gb * GIB), int(memory_gb * GIB)))

    environment = {**os.environ, **(env or {})}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err if stderr is None else stderr,
            preexec_fn=limit,
        )
        with registered(process.pid):
            status, usage, hung = _wait(process.pid, start, limit_s * PATIENCE, kill_after)
        process.returncode = status
        out.seek(0)
        err.seek(0)
        return Outcome(
            status,
            out.read().decode(errors="replace"),
            err.read().decode(errors="replace"),
            time.monotonic() - start,
            usage / (1 << 20),
            hung,
        )


def _wait(
    pid: int, start: float, limit_s: float, kill_after: tuple[float, int] | None
) -> tuple[int, int, bool]:
    """Return exit status, peak memory in KiB, and whether the process had to be killed."""
    hung, peak = False, 0
    while True:
        peak = max(peak, _peak_kib(pid))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), peak, hung
        passed = time.monotonic() - start
        if kill_after is not None and passed > kill_after[0]:
            os.kill(pid, kill_after[1])
            kill_after = None
        if passed > limit_s and not hung:
            hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)


def _peak_kib(pid: int) -> int:
    """Return the peak memory of a process so far; that of before its program was loaded is out."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) if lines else 0


def triplex(*arguments: object) -> list[str]:
    """Return the command ``triplex-deploy`` of this Python with these arguments."""
    return [sys.executable, "-m", "triplex_deploy.cli", *map(str, arguments)]


@dataclass(frozen=True)
class Verdict:
    """What was seen in a case, and whether it is right."""

    right: bool | None
    """None if the case could not be run here."""
    seen: str
    """What was seen, in one line."""


def refused(outcome: Outcome, *words: str, peak_gb: float = 4.0, status: int = 1) -> Verdict:
    """Return right if the command ended in one error line that has these words."""
    wrong = outcome.misbehaves
    if not wrong and outcome.status != status:
        wrong = f"exit {outcome.status}"
    if not wrong and len(outcome.errors) != 1:
        wrong = f"{len(outcome.errors)} error lines"
    if not wrong and outcome.peak_gb > peak_gb:
        wrong = f"takes {outcome.peak_gb:.1f} GB"
    missing = [word for word in words if word not in (outcome.errors or [""])[0]]
    if not wrong and missing:
        wrong = f"the error lacks {missing[0]!r}"
    return Verdict(not wrong, f"{wrong}; {outcome}" if wrong else str(outcome))


def done(outcome: Outcome, peak_gb: float = 4.0) -> Verdict:
    """Return right if the command ended with exit status 0."""
    wrong = outcome.misbehaves or ("" if outcome.status == 0 else f"exit {outcome.status}")
    if not wrong and outcome.peak_gb > peak_gb:
        wrong = f"takes {outcome.peak_gb:.1f} GB"
    return Verdict(not wrong, f"{wrong}; {outcome}" if wrong else str(outcome))


def well_ended(outcome: Outcome, peak_gb: float = 4.0) -> Verdict:
    """Return right if the command ended in any good way: done, or one clear error."""
    return done(outcome, peak_gb) if outcome.status == 0 else refused(outcome, peak_gb=peak_gb)


def both(*verdicts: Verdict) -> Verdict:
    """Return right if all are right; what is seen is the first that is not, or the last."""
    return next((verdict for verdict in verdicts if not verdict.right), verdicts[-1])


def check(right: bool, seen: str) -> Verdict:
    """Return a verdict of a condition."""
    return Verdict(right, seen)
