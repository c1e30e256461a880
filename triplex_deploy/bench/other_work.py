"""How much of our cores other work takes while we measure, as the operating system counts it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

STAT: Final = Path("/proc/stat")
IDLE_FIELDS: Final = (3, 4)
"""Of a ``cpu`` line: idle and waiting for a disk."""
COUNTED_FIELDS: Final = 8
"""Up to steal; guest time, which follows, is part of user time."""


class Moment(NamedTuple):
    """CPU seconds that all work, and this process alone, have taken by a time."""

    at_s: float
    busy_s: float
    own_s: float


def now() -> Moment | None:
    """This moment; None where the system does not tell (it is Linux's ``/proc/stat``)."""
    try:
        text = STAT.read_text(encoding="ascii")
        cores, ticks_per_s = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    return Moment(time.perf_counter(), busy_ticks(text, cores) / ticks_per_s, time.process_time())


def busy_ticks(stat: str, cores: Collection[int]) -> int:
    """Ticks since boot in which these cores were not idle, time stolen by a host included."""
    wanted = {f"cpu{core}" for core in cores}
    lines = [line.split() for line in stat.splitlines()]
    counts = [[int(field) for field in line[1:]] for line in lines if line and line[0] in wanted]
    return sum(
        ticks
        for count in counts
        for field, ticks in enumerate(count[:COUNTED_FIELDS])
        if field not in IDLE_FIELDS
    )


def share_of_others(begin: Moment | None, end: Moment | None, cores: int) -> float | None:
    """Part of ``cores`` that other work took between two moments, 0 to 1."""
    if begin is None or end is None or end.at_s <= begin.at_s:
        return None
    others_s = (end.busy_s - begin.busy_s) - (end.own_s - begin.own_s)
    return min(1.0, max(0.0, others_s / (cores * (end.at_s - begin.at_s))))
