"""What every benchmark measures and writes: repeated timings, the machine, the JSON."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triplex_deploy.bench.machine import read_machine
from triplex_deploy.system import installed_versions, peak_memory_mb

PACKAGES = ("triplex-deploy", "numpy", "onnxruntime", "torch", "openslide-python", "imagecodecs")


@dataclass(frozen=True)
class Case:
    """Something to time, and why it is worth timing."""

    name: str
    reason: str
    run: Callable[[], object]
    repeats: int = 3


@dataclass
class Timing:
    """Seconds of one case; ``cpu_s`` is the least over the repeats, of all threads together."""

    name: str
    reason: str
    walls: list[float]
    cpu_s: float
    peak_mb: float
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def best_s(self) -> float:
        """Least wall seconds: the run that other work on the machine disturbed least."""
        return min(self.walls)

    def to_dict(self) -> dict[str, Any]:
        wall = {
            "p50": statistics.median(self.walls),
            "min": min(self.walls),
            "max": max(self.walls),
            "n": len(self.walls),
        }
        return {
            "name": self.name,
            "reason": self.reason,
            "wall_s": wall,
            "cpu_s": self.cpu_s,
            "peak_mb": self.peak_mb,
            **self.metadata,
        }


def measure(case: Case) -> Timing:
    """Run a case ``repeats`` times; nothing is discarded, so warm up before where it matters."""
    walls, cpus = [], []
    for _ in range(case.repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        case.run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timing(case.name, case.reason, walls, min(cpus), peak_memory_mb())


def report(
    timings: list[Timing],
    ratios: dict[str, float],
    limits: dict[str, Any],
    path: Path | None,
) -> None:
    """Print the ratios as JSON on stdout, or write everything to ``path``."""
    content = {
        "schema": 1,
        "machine": read_machine().model_dump(),
        "versions": installed_versions(PACKAGES),
        "command": shlex.join(["python", *sys.argv]),
        "cases": [timing.to_dict() for timing in timings],
        "ratios": ratios,
        "limits": limits,
    }
    text = json.dumps(content, indent=2) + "\n"
    if path is None:
        print(text, end="")
        return
    path.write_text(text, encoding="utf-8")
    for name, value in ratios.items():
        print(f"{name:44} {value:.4g}")
