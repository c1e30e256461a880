"""Run one piece of work in a thread beside the caller's."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from triplex_deploy.pipeline.ordered_pool import GRACE_S
from triplex_deploy.progress import Progress, StageClock

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Check = Callable[[], None]
"""Called by the work between its steps; it does not return once the caller has stopped the work."""


class SideTask(Generic[Result]):
    """Calls ``work`` in a thread of its own; a context manager, whose block is the caller's work.

    ``result`` waits for the end and raises the work's error. When the block ends in any way, the
    work is stopped at its next step, and the thread has ended; only after Ctrl-C the wait for it is
    limited. The stage ``name`` of ``clock`` gets the CPU seconds of the thread, and no elapsed
    seconds: those of the stages that the caller is in add up to the total.
    """

    def __init__(self, name: str, work: Callable[[Check], Result], clock: StageClock) -> None:
        self._name = name
        self._work = work
        self._clock = clock
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def result(self) -> Result:
        """Wait for the work and return its result; raise its error."""
        self._ended.wait()
        self.require_no_error()
        (result,) = self._result
        return result

    def require_no_error(self) -> None:
        """Raise the error of the work if it has failed by now."""
        if self._ended.is_set() and self._error is not None:
            raise self._error

    @contextmanager
    def error_first(self, *kinds: type[Exception]) -> Iterator[None]:
        """Raise the error of the work in place of an error of the block.

        After an error of ``kinds`` the work is waited for, so that its error is raised whichever
        came first. After another error only one that is there already is raised.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, kinds):
                self._ended.wait()
            self.require_no_error()
            raise

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C: __exit__ is not called if __enter__ fails
            self._stopped.set()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stopped.set()
        is_error = kind is None or issubclass(kind, Exception)
        self._thread.join(None if is_error else GRACE_S)
        if self._thread.is_alive():
            logger.warning("%s: a call that cannot be interrupted is still running", self._name)

    def _run(self) -> None:
        begin = time.thread_time()
        try:
            self._result.append(self._work(self._check))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self._error = error
        finally:
            self._clock.add(self._name, 0.0, time.thread_time() - begin)
            self._ended.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Ends work that nobody waits for any more."""


class WatchedProgress:
    """Passes progress on, and raises the error of a side task as soon as there is one."""

    def __init__(self, progress: Progress, task: SideTask[Any]) -> None:
        self._progress = progress
        self._task = task

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""
        self._task.require_no_error()
        self._progress.start(stage, total)

    def advance(self, n: int) -> None:
        """Add ``n`` finished steps."""
        self._progress.advance(n)
        self._task.require_no_error()
