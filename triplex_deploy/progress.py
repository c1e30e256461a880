"""Report the progress of long work, and measure how long each stage takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of each stage, in the thread that called the pipeline."""

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""

    def advance(self, n: int) -> None:
        """Add ``n`` finished steps; over a stage they sum to its total."""


class Silent:
    """A ``Progress`` that shows nothing."""

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass


class StageClock:
    """Sums the time of each stage over all its runs; several threads may use it.

    If several workers are in a stage at once, each adds its share of the elapsed time, so that the
    sums of consecutive stages add up to the total.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Elapsed seconds of each stage."""
        self.cpu_seconds: dict[str, float] = {}
        """CPU seconds of each stage."""
        self._lock = threading.Lock()

    @contextmanager
    def stage(
        self, name: str, workers: int = 1, cpu_clock: Callable[[], float] = time.thread_time
    ) -> Iterator[None]:
        """Time a ``with`` block.

        Args:
            name: The stage.
            workers: Number of workers that are in the stage at once.
            cpu_clock: Clock of the CPU time. Its default measures this thread; pass another if
                other threads or processes do the work of the block.
        """
        begin, begin_cpu = time.perf_counter(), cpu_clock()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - begin) / workers, cpu_clock() - begin_cpu)

    def add(self, name: str, wall_s: float, cpu_s: float = 0.0) -> None:
        """Add elapsed and CPU seconds to a stage."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + wall_s
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + cpu_s
