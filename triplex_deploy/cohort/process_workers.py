"""Workers as processes of this machine, spawned, each at the other end of a pipe of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import Broken, Died, Event, Finished, Opening, Ready, Watcher
from triplex_deploy.cohort.run_job import perform
from triplex_deploy.errors import BackendError, TriplexError, one_line
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.runtime.model import Model

GRACE_S: Final = 0.9
"""How long a worker that is told to stop may take to clean up."""


class ProcessWorkers:
    """At most ``limit`` processes; a pipe each, so that one that is killed blocks no other.

    Spawned and not forked: ONNX Runtime's threads do not survive a fork.
    """

    tries: int = 2

    def __init__(self, opening: Opening, watcher: Watcher, limit: int, log_level: int) -> None:
        self.limit = limit
        self._sharing = limit
        self._opening = opening
        self._watcher = watcher
        self._log_level = log_level
        self._processes: dict[Connection, SpawnProcess] = {}
        self._number: dict[Connection, int] = {}
        self._progress: dict[Connection, Progress] = {}
        self._started = 0

    def connect(self) -> None:
        """There is nothing to find: workers run here."""

    def start(self) -> int:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(theirs, self._opening, self._log_level), daemon=True
        )
        with _interrupts_held():
            process.start()
        theirs.close()  # so that the worker's death ends the pipe
        self._started += 1
        self._processes[ours], self._number[ours] = process, self._started
        return self._started

    def submit(self, worker: int, job: Job) -> None:
        connection = next(c for c, number in self._number.items() if number == worker)
        self._progress[connection] = self._watcher.progress(job)
        with suppress(OSError):  # it has died since; next_event finds out
            connection.send(self._with_share(job))

    def _with_share(self, job: Job) -> Job:
        """The workers together keep to the memory that was given for all, and to the cores."""
        options = replace(
            job.options,
            memory_gb=job.options.memory_gb / self._sharing,
            threads=job.options.threads or self._opening.threads,
        )
        return replace(job, options=options)

    def next_event(self) -> Event:
        while True:
            for connection in wait(list(self._processes)):
                assert isinstance(connection, Connection)
                event = self._receive(connection)
                if event is not None:
                    return event

    def _receive(self, connection: Connection) -> Event | None:
        try:
            message: Any = connection.recv()
        except (EOFError, OSError):
            return self._bury(connection)
        worker = self._number[connection]
        match message:
            case Started(stage, total):
                self._progress.get(connection, Silent()).start(stage, total)
            case Advanced(n):
                self._progress.get(connection, Silent()).advance(n)
            case Opened():
                return Ready(worker)
            case TriplexError():
                return Broken(message)
            case Outcome():
                self._progress.pop(connection, None)
                return Finished(worker, message)
        return None

    def _bury(self, connection: Connection) -> Died:
        worker = self._number.pop(connection)
        process = self._processes.pop(connection)
        self._progress.pop(connection, None)
        connection.close()
        process.join(GRACE_S)
        return Died(worker, _cause(process.exitcode))

    def stop(self) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()
        self._number.clear()
        self._progress.clear()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C in a terminal reaches the children too: they start deaf to it, we stop them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed, as the system does when memory runs out"
    if exit_code is not None and exit_code < 0:
        return f"crashed with {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"


LOGGER: Final = "triplex_deploy"
ORPHAN_GRACE_S: Final = 2.0


@dataclass(frozen=True)
class Opened:
    """The bundle is open."""


@dataclass(frozen=True)
class Started:
    """A stage of the job under way begins."""

    stage: str
    total: int


@dataclass(frozen=True)
class Advanced:
    """A part of the stage is done."""

    n: int


def serve(connection: Connection, opening: Opening, log_level: int) -> None:
    """Answer jobs from ``connection`` until it ends or SIGTERM comes.

    Sends ``Opened`` or the error that prevented it, then per job ``Started`` and ``Advanced`` and
    last its ``Outcome``.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    progress = _PipeProgress(connection)
    try:
        model = _open(connection, opening)
        if model is None:
            return
        with model:
            connection.send(Opened())
            while True:
                connection.send(perform_logged(connection.recv(), model, progress, log_level))
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the parent has gone, or wants us to


def perform_logged(job: Job, model: Model, progress: Progress, log_level: int) -> Outcome:
    """``perform``, with what was logged meanwhile in the outcome: nobody reads our log here."""
    with _collected(log_level) as messages:
        outcome = perform(job, model, progress)
    return replace(outcome, messages=tuple(messages))


def open_or_explain(opening: Opening) -> Model | TriplexError:
    """The opened model, or why it cannot be had."""
    try:
        return opening.open()
    except TriplexError as error:
        return error
    except Exception as error:  # noqa: BLE001 - any kind must reach the one who waits
        return BackendError(one_line(error))


def _open(connection: Connection, opening: Opening) -> Model | None:
    model = open_or_explain(opening)
    if isinstance(model, TriplexError):
        connection.send(model)
        return None
    return model


class _PipeProgress:
    """A ``Progress`` at the far end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, stage: str, total: int) -> None:
        self._connection.send(Started(stage, total))

    def advance(self, n: int) -> None:
        self._connection.send(Advanced(n))


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, record.getMessage()))


@contextmanager
def _collected(log_level: int) -> Iterator[list[tuple[int, str]]]:
    logger, collector = logging.getLogger(LOGGER), _Collector()
    logger.setLevel(log_level)
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def _die_with_parent() -> None:
    """Stop like after Ctrl-C when the parent was killed; then at once."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os._exit(1)
