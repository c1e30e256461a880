"""What the pipeline tells a caller while it runs, and how long each stage took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives ``start(stage, total)`` and then ``advance(n)`` until ``n`` sums to ``total``.

    Both are called by the thread that called the pipeline.
    """

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, n: int) -> None: ...


class Silent:
    """A ``Progress`` that shows nothing."""

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass


class StageClock:
    """Seconds per named stage, of the wall and of the CPU; a stage entered again adds to its sum.

    Where several workers are in a stage at once, each counts its share of the wall, so that stages
    which follow one another add up to the total. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(
        self, name: str, workers: int = 1, cpu_clock: Callable[[], float] = time.thread_time
    ) -> Iterator[None]:
        """Time a block; ``cpu_clock`` is the thread's unless the block's work is elsewhere."""
        begin, begin_cpu = time.perf_counter(), cpu_clock()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - begin) / workers, cpu_clock() - begin_cpu)

    def add(self, name: str, wall_s: float, cpu_s: float = 0.0) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + wall_s
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + cpu_s
