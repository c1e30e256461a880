"""Workers as processes of this machine, spawned, each at the other end of a pipe of its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from triplex_deploy.errors import TriplexError
from triplex_deploy.pipeline.many.engine import Opening, Watcher
from triplex_deploy.pipeline.many.job import Job, Outcome
from triplex_deploy.pipeline.many.pool import Broken, Died, Event, Finished, Ready
from triplex_deploy.pipeline.many.worker import Advanced, Opened, Started, serve
from triplex_deploy.pipeline.progress import Progress, Silent

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
