"""Time as the benchmark sees it, so that tests can bring their own."""

from __future__ import annotations

import hashlib
import time
from typing import Final, Protocol

PROBE_BYTES: Final = 1 << 20
PROBE_RUNS: Final = 5


class Clock(Protocol):
    """Seconds since some moment, and waiting."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def probe_speed(clock: Clock) -> float:
    """Seconds that hashing 1 MiB takes now, the best of a few: how fast one core is at the moment.

    It does the same work in every benchmark, so that two results can tell a slower machine from
    a slower bundle.
    """
    content = bytes(PROBE_BYTES)
    took = []
    for _ in range(PROBE_RUNS):
        begin = clock.now()
        hashlib.sha256(content).digest()
        took.append(clock.now() - begin)
    return min(took)
