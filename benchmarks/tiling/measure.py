"""Wall time, CPU time and peak memory of a piece of work."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Timing:
    """Repeated runs of one piece of work; ``cpu_s`` is the least, of all threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def run(self, work: Callable[[], Any]) -> Any:
        """Run once more; keeps the times and the highest memory seen."""
        reset_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        self.peak_mb = max(self.peak_mb, peak_mb())
        return result

    def run_opened(self, opening: AbstractContextManager[Callable[[], Any]]) -> Any:
        """Run what ``opening`` opens; opening and closing are not timed."""
        with opening as work:
            return self.run(work)

    @property
    def cpu_s(self) -> float:
        return min(self.cpu)

    @property
    def wall_s(self) -> float:
        return min(self.wall)

    def as_json(self) -> dict[str, Any]:
        return {
            "wall_s": {
                "p50": round(median(self.wall), 5),
                "min": round(min(self.wall), 5),
                "max": round(max(self.wall), 5),
                "n": len(self.wall),
            },
            "cpu_s": round(self.cpu_s, 5),
            "cpu_p50_s": round(median(self.cpu), 5),
            "peak_mb": round(self.peak_mb, 1),
        }


def reset_peak() -> None:
    """Forget the process's highest memory so far, where the system can."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def peak_mb() -> float:
    """Highest memory of the process since ``reset_peak``, or ever."""
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def best_of(work: Callable[[], Any], repeats: int) -> float:
    """Least CPU seconds of several runs, after one that is not counted."""
    work()
    timing = Timing()
    for _ in range(repeats):
        timing.run(work)
    return timing.cpu_s
