"""Report the progress of long work, and measure how long each stage takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Protocol


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


class Lines:
    """Prints progress on stderr: on one line that changes, or in a file a line now and then.

    Args:
        name: What the stages belong to, such as the name of a slide.
    """

    EVERY_S = 15.0
    """Seconds between two lines in a file."""
    REDRAW_S = 0.2
    """Seconds between two changes of a line in a terminal or notebook."""

    def __init__(self, name: str = "") -> None:
        self._name = f"{name}: " if name else ""
        self._stage, self._total, self._done = "", 0, 0
        self._shown_at = -self.EVERY_S

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""
        self._stage, self._total, self._done = stage, total, 0
        self._show()

    def advance(self, n: int) -> None:
        """Add ``n`` finished steps."""
        self._done += n
        pause = self.REDRAW_S if self._redraws() else self.EVERY_S
        is_end = self._done >= self._total
        if is_end or time.monotonic() - self._shown_at >= pause:
            self._show(is_end)

    def _redraws(self) -> bool:
        """Return True for a terminal, and for a notebook, which also obeys carriage returns."""
        return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())

    def _show(self, is_end: bool = False) -> None:
        self._shown_at = time.monotonic()
        text = f"{self._name}{self._stage}: {self._done} of {self._total}"
        redraws = self._redraws()
        end = "" if redraws and not is_end else "\n"
        with suppress(OSError, ValueError, AttributeError):  # a stderr that is gone stops nothing
            sys.stderr.write(("\r" if redraws else "") + text + end)
            sys.stderr.flush()


def shown(progress: bool | Progress | None, name: str = "") -> Progress:
    """Return where progress is reported: ``Lines`` for True, nowhere for False or None."""
    if progress is None or isinstance(progress, bool):
        return Lines(name) if progress else Silent()
    return progress


OTHER: Final = "other"
"""Stage of the elapsed time that is in no stage."""
TOTAL: Final = "total"
"""Name of the sum of all stages."""


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


class WallClock(StageClock):
    """Sums the time of stages that follow each other, so that they add up to the elapsed time.

    Args:
        before: Seconds of stages that had passed when the clock was made.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.take(before or {})
        self._began = time.perf_counter() - sum(self.seconds.values())

    def take(self, stages: Mapping[str, float]) -> None:
        """Take the stages of a clock that ran within this one, as ``stages`` returns them."""
        for name, seconds in stages.items():
            if name not in (OTHER, TOTAL):
                self.add(name, seconds)

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage, then ``other`` and ``total``, which is their sum."""
        stages = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        elapsed = time.perf_counter() - self._began
        stages[OTHER] = max(round(elapsed - sum(stages.values()), 3), 0.0)
        return {**stages, TOTAL: round(sum(stages.values()), 3)}
