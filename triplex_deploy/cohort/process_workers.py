"""Run the workers of a pool as processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Generic

from triplex_deploy.cohort.pool import (
    Broken,
    Died,
    Event,
    Finished,
    JobT,
    OutcomeT,
    Ready,
    WorkerProgram,
)
from triplex_deploy.errors import BackendError, TriplexError, one_line
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.runtime.session import LostDeviceError

GRACE_S: Final = 0.9
"""Seconds a worker has to clean up after it is asked to stop."""
ORPHAN_GRACE_S: Final = 2.0
"""Seconds a worker has to clean up after its parent was killed."""


class ProcessWorkers(Generic[JobT, OutcomeT]):
    """Run at most ``limit`` processes, each with a pipe of its own.

    A killed process closes its pipe and blocks no other. Processes are spawned, not forked: the
    threads of ONNX Runtime and torch do not survive a fork.

    Args:
        program: What each process opens and then runs for its jobs. With a sequence of ``limit``
            programs, such as one for each GPU, the process that replaces another opens that one's.
        limit: Maximum number of processes at a time.
        progress_of: Returns where the progress of a job is reported.
        max_attempts: Maximum attempts for a job whose process dies.
        is_single_use: Start a new process for every job, so that memory is freed between jobs.
    """

    def __init__(
        self,
        program: WorkerProgram[JobT, OutcomeT] | Sequence[WorkerProgram[JobT, OutcomeT]],
        limit: int,
        progress_of: Callable[[JobT], Progress] | None = None,
        max_attempts: int = 2,
        is_single_use: bool = False,
    ) -> None:
        self.limit = limit
        self.max_attempts = max_attempts
        programs = program if isinstance(program, Sequence) else [program] * limit
        self._free = deque(programs)
        self._program: dict[Connection, WorkerProgram[JobT, OutcomeT]] = {}
        self._opening: set[Connection] = set()
        self._progress_of = progress_of
        self._is_single_use = is_single_use
        self._processes: dict[Connection, SpawnProcess] = {}
        self._number: dict[Connection, int] = {}
        self._progress: dict[Connection, Progress] = {}
        self._started = 0

    def connect(self) -> None:
        """Do nothing: workers run on this machine."""

    def start(self) -> int:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        program = self._free.popleft()
        process = context.Process(target=serve, args=(far, program), daemon=True)
        with _interrupts_blocked():
            process.start()
        far.close()  # so that the worker's death ends the pipe
        self._started += 1
        self._processes[near], self._number[near] = process, self._started
        self._program[near] = program
        self._opening.add(near)
        return self._started

    def submit(self, worker: int, job: JobT) -> None:
        connection = next(c for c, number in self._number.items() if number == worker)
        if self._progress_of is not None:
            self._progress[connection] = self._progress_of(job)
        with suppress(OSError):  # the worker has died since; next_event finds out
            connection.send(job)

    def next_event(self) -> Event[OutcomeT]:
        while True:
            for connection in wait(list(self._processes)):
                assert isinstance(connection, Connection)
                event = self._receive(connection)
                if event is not None:
                    return event

    def _receive(self, connection: Connection) -> Event[OutcomeT] | None:
        try:
            message: Any = connection.recv()
        except (EOFError, OSError):
            worker, exit_code = self._remove(connection)
            return Died(worker, _cause(exit_code))
        match message:
            case StageStarted(stage, total):
                self._progress.get(connection, Silent()).start(stage, total)
            case StageAdvanced(n):
                self._progress.get(connection, Silent()).advance(n)
            case ProgramOpened():
                self._opening.discard(connection)
                return Ready(self._number[connection])
            case TriplexError():
                return Broken(message)
            case DeviceLost(why):
                worker, _ = self._remove(connection)
                return Died(worker, f"lost its GPU ({why})")
            case JobFinished(outcome):
                return self._finished(connection, outcome)
        return None

    def _finished(self, connection: Connection, outcome: OutcomeT) -> Finished[OutcomeT]:
        self._progress.pop(connection, None)
        if not self._is_single_use:
            return Finished(self._number[connection], outcome)
        worker, _ = self._remove(connection)
        return Finished(worker, outcome, ended=True)

    def _remove(self, connection: Connection) -> tuple[int, int | None]:
        """Close the pipe to a worker and return its number and exit code.

        Its program is free again, unless it could not be opened: its GPU is of no use.
        """
        worker = self._number.pop(connection)
        program = self._program.pop(connection)
        if connection not in self._opening:
            self._free.append(program)
        self._opening.discard(connection)
        process = self._processes.pop(connection)
        self._progress.pop(connection, None)
        connection.close()
        _end(process, time.monotonic() + GRACE_S)
        return worker, process.exitcode

    def stop(self) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in self._processes.values():
            _end(process, deadline)
        self._free.extend(self._program.values())
        self._processes.clear()
        self._number.clear()
        self._program.clear()
        self._opening.clear()
        self._progress.clear()


def serve(connection: Connection, program: WorkerProgram[Any, Any]) -> None:
    """Run jobs from ``connection`` until it ends or SIGTERM comes.

    Sends ``ProgramOpened`` or the error that prevented it. Then sends, for each job,
    ``StageStarted`` and ``StageAdvanced``, and last ``JobFinished``, or ``DeviceLost`` where the
    process ends.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = _PipeProgress(connection)
    with suppress(EOFError, OSError, KeyboardInterrupt), ExitStack() as stack:
        # The parent has ended, or has asked this process to stop.
        run_job = open_program(program, stack)
        if isinstance(run_job, TriplexError):
            connection.send(run_job)
            return
        connection.send(ProgramOpened())
        try:
            while True:
                connection.send(JobFinished(run_job(connection.recv(), progress)))
        except LostDeviceError as error:
            connection.send(DeviceLost(one_line(error)))


def open_program(
    program: WorkerProgram[JobT, OutcomeT], stack: ExitStack
) -> Callable[[JobT, Progress], OutcomeT] | TriplexError:
    """Open ``program`` within ``stack``; an error is returned, so that it can be sent."""
    try:
        return stack.enter_context(program.open())
    except TriplexError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the parent waits for an answer of any kind
        return BackendError(one_line(error))


@dataclass(frozen=True)
class ProgramOpened:
    """The worker is ready for jobs."""


@dataclass(frozen=True)
class StageStarted:
    """A stage of the running job begins."""

    stage: str
    total: int


@dataclass(frozen=True)
class StageAdvanced:
    """``n`` parts of the stage are done."""

    n: int


@dataclass(frozen=True)
class JobFinished:
    """The running job has ended, well or not."""

    outcome: Any


@dataclass(frozen=True)
class DeviceLost:
    """The worker's GPU refuses every call; the worker ends, and its job can be tried again."""

    why: str


class _PipeProgress:
    """A ``Progress`` that sends its calls through a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, stage: str, total: int) -> None:
        self._connection.send(StageStarted(stage, total))

    def advance(self, n: int) -> None:
        self._connection.send(StageAdvanced(n))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT for a process started within: Ctrl-C reaches it too, but the parent stops it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: SpawnProcess, deadline: float) -> None:
    """Wait for a process until ``deadline`` of the monotonic clock, and then kill it."""
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()


def _cause(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed, as the system does when memory runs out"
    if exit_code is not None and exit_code < 0:
        return f"crashed with {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"


def _end_with_parent() -> None:
    """Interrupt this process when its parent has ended, and end it soon after."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os._exit(1)
