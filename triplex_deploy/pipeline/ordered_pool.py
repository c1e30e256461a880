"""Apply a function to a stream of items in several threads, with results in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, Self, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_PER_WORKER: Final = 3
"""Items between the source and the caller: one at work, one waiting, one finished."""
GRACE_S: Final = 1.5
"""Longest wait for running calls after a stop; one step of the encoders is two calls."""


class OrderedThreadPool(Generic[Item, Result]):
    """Applies ``work`` to each of ``items``; iterate for the results, in the order of the items.

    One thread reads ``items``, ``workers`` threads call ``work``, and the caller's thread iterates.
    At most ``ITEMS_PER_WORKER`` items per worker exist at once. The first error of any thread is
    raised in the caller's thread. Use the pool as a context manager: on exit, also after an error,
    every thread is stopped and ``items`` is closed.
    """

    waits: dict[str, float]
    """Idle seconds by kind of thread: ``source``, ``workers`` (their sum) and ``caller``."""

    def __init__(
        self, name: str, items: Iterator[Item], work: Callable[[Item], Result], workers: int = 1
    ) -> None:
        self.waits = {"source": 0.0, "workers": 0.0, "caller": 0.0}
        self._name = name
        self._items = items
        self._work = work
        self._capacity = workers * ITEMS_PER_WORKER
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Item]] = deque()
        self._finished: dict[int, Result] = {}
        self._n_read = 0
        self._n_given = 0
        self._exhausted = False
        self._stopped = False
        self._error: BaseException | None = None
        targets = [self._read_items, *[self._work_items] * workers]
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{number}", daemon=True)
            for number, target in enumerate(targets)
        ]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # Ctrl-C: __exit__ is not called if __enter__ fails
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """Stop every started thread and wait up to ``GRACE_S`` for them to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + GRACE_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            logger.warning("%s: a call that cannot be interrupted is still running", self._name)

    def __iter__(self) -> Iterator[Result]:
        while True:
            with self._changed:
                self._wait("caller", lambda: self._n_given in self._finished or self._is_over())
                if self._error is not None:
                    raise self._error
                if self._n_given not in self._finished:
                    return
                result = self._finished.pop(self._n_given)
                self._n_given += 1
                self._changed.notify_all()
            yield result

    def _is_over(self) -> bool:
        return self._error is not None or (self._exhausted and self._n_given == self._n_read)

    def _read_items(self) -> None:
        """Read items while there is room for them (the source thread)."""
        try:
            try:
                while self._has_room() and self._read_next():
                    pass
            finally:
                close = getattr(self._items, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self._fail(error)
        with self._changed:
            self._exhausted = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait for room for one more item; return False once the pool is stopped."""
        with self._changed:
            self._wait("source", lambda: self._n_read - self._n_given < self._capacity)
            return not self._stopped

    def _read_next(self) -> bool:
        for item in self._items:
            with self._changed:
                self._waiting.append((self._n_read, item))
                self._n_read += 1
                self._changed.notify_all()
            return True
        return False

    def _work_items(self) -> None:
        """Work on items until there are no more (a worker thread)."""
        try:
            while (numbered := self._next_item()) is not None:
                number, item = numbered
                result = self._work(item)
                del numbered, item
                with self._changed:
                    self._finished[number] = result
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self._fail(error)

    def _next_item(self) -> tuple[int, Item] | None:
        with self._changed:
            self._wait("workers", lambda: bool(self._waiting) or self._exhausted)
            if self._stopped or not self._waiting:
                return None
            return self._waiting.popleft()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopped = True
            self._changed.notify_all()

    def _wait(self, who: str, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()`` or a stop, with the condition held; count the time as idle."""
        begin = time.perf_counter()
        self._changed.wait_for(lambda: ready() or self._stopped)
        self.waits[who] += time.perf_counter() - begin
