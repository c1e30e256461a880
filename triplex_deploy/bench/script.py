"""Time the calls of a script of ``benchmarks/``, and write them in the same record as ``bench``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from triplex_deploy.bench.machine import (
    PACKAGES,
    WallClock,
    forget_peak_memory,
    probe_speed,
    read_machine,
)
from triplex_deploy.bench.measure import Case, Round
from triplex_deploy.bench.result import (
    SCHEMA_VERSION,
    SINGLE_STREAM,
    BenchResult,
    Ceilings,
    write_result,
)
from triplex_deploy.bench.summary import Counted, case_result
from triplex_deploy.bench.work import CallResult, Work
from triplex_deploy.system import installed_versions, peak_memory_mb

PEAK_MEMORY: Final = "peak_memory_mb"
"""Key of the metadata with the highest memory of the process during any call of a case."""
NOT_COUNTED: Final = Counted(absent="operations are counted for single graphs alone")

Result = TypeVar("Result")


class ScriptWork(Work):
    """Calls that a script makes itself; each call is one query."""

    def __init__(self, name: str, rows: int, unit: str) -> None:
        """Take the name of what is called, and how many rows of ``unit`` a call serves."""
        self.graph, self.axis, self.size, self.unit, self.limit = name, unit, rows, unit, 1
        self.absent = {}
        self.metadata = {}

    def query(self) -> CallResult:
        raise NotImplementedError("the script makes the calls: use time_call")

    def batch(self, queries: int) -> CallResult:
        return self.query()


def script_case(name: str, reason: str, rows: int = 1, unit: str = "calls") -> Case:
    """Return a case without rounds.

    Args:
        name: Name of the case, unique in the result.
        reason: Why it is worth timing.
        rows: How many rows a call serves, for the throughput.
        unit: What a row is, such as ``tiles``.
    """
    case = Case("", ScriptWork(name, rows, unit), SINGLE_STREAM, name=name)
    case.work.metadata["reason"] = reason
    return case


def time_call(case: Case, call: Callable[[], Result]) -> Result:
    """Make a call, add its seconds as a round of the case, and return what it returns."""
    forget_peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    add_round(case, wall, cpu, peak_memory_mb())
    return found


def set_rows(case: Case, rows: int) -> None:
    """Set how many rows each call served, if the script knows it only after the calls."""
    case.work.size = rows
    for found in case.rounds:
        found.rows = rows


def add_round(case: Case, wall_s: float, cpu_s: float, memory_mb: float | None = None) -> None:
    """Add a call that was measured elsewhere, such as in another process, as a round of the case.

    Args:
        case: The case.
        wall_s: Wall seconds of the call.
        cpu_s: CPU seconds of all its threads together.
        memory_mb: Peak memory of the process; None if it is not known.
    """
    case.rounds.append(
        Round([wall_s], rows=case.work.size, calls=1, busy_s=wall_s, elapsed_s=wall_s, cpu_s=cpu_s)
    )
    if memory_mb is not None:
        metadata = case.work.metadata
        metadata[PEAK_MEMORY] = max(memory_mb, metadata.get(PEAK_MEMORY, 0.0))


def script_result(
    cases: Sequence[Case],
    ratios: Mapping[str, float],
    limits: Mapping[str, Any],
    ratios_absent: Mapping[str, str] | None = None,
    counted: Mapping[str, Counted] | None = None,
    ceilings: Ceilings | None = None,
) -> BenchResult:
    """Return the result of a script.

    Args:
        cases: The measured cases.
        ratios: Ratios and other figures computed from them, by name.
        limits: Aims, and other facts that are not ratios, by name.
        ratios_absent: Why a ratio is missing, by its name.
        counted: Operations and traffic of cases, by the cases' keys.
        ceilings: The roof of the roofline, if it was measured.
    """
    counted = counted or {}
    return BenchResult(
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", *map(_without_folders, sys.argv)]),
        machine=read_machine(),
        versions=installed_versions(PACKAGES),
        settings=None,
        ceilings=ceilings,
        probe_ms=(1e3 * probe_speed(WallClock()),),
        other_work=(),
        subjects=(),
        cases=tuple(case_result(case, counted.get(case.key, NOT_COUNTED)) for case in cases),
        ratios=dict(ratios),
        ratios_absent=dict(ratios_absent or {}),
        limits=dict(limits),
    )


def report(result: BenchResult, path: Path | None) -> None:
    """Write a result to a file and print its ratios, or print all of it as JSON."""
    if path is None:
        sys.stdout.write(result.to_json())
        return
    write_result(result, path)
    lines = [f"{name:44} {value:.4g}" for name, value in result.ratios.items()]
    lines += [f"{name:44} not measured: {why}" for name, why in result.ratios_absent.items()]
    sys.stdout.write("\n".join([*lines, ""]))


def _without_folders(word: str) -> str:
    """Return the name alone of a file that is given from the root, as folders differ by machine."""
    path = Path(word)
    return path.name if path.is_absolute() else word
