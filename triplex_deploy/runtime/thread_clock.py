"""Read the CPU time of threads that a runtime starts for itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TASKS: Final = Path("/proc/self/task")
"""Has an entry for each thread of this process, on Linux."""
_ONE_THREAD: Final = 6
"""Lowest bits of the number of a clock that counts the CPU time of one thread (Linux)."""
_starting = threading.Lock()


@dataclass
class Threads:
    """Some threads of this process."""

    numbers: set[int] = field(default_factory=set)
    """Their numbers in the system."""
    ended_s: dict[int, float] = field(default_factory=dict)
    """CPU seconds that each had when they were last read."""

    def cpu_s(self) -> float:
        """Return the CPU seconds of all; those of a thread that has ended are as last read."""
        for number in self.numbers:
            with suppress(OSError):  # it has ended
                self.ended_s[number] = time.clock_gettime((~number << 3) | _ONE_THREAD)
        return sum(self.ended_s.values())


@contextmanager
def new_threads() -> Iterator[Threads]:
    """Yield an object that has, after the block, the threads that were started in the block.

    Threads of Python are left out, and blocks of several threads wait for each other: what is left
    was started by a runtime that the block calls. Without ``/proc`` there are none.
    """
    threads = Threads()
    with _starting:
        before = _numbers()
        yield threads
        threads.numbers = _numbers() - before - _of_python()


def _numbers() -> set[int]:
    try:
        return {int(name) for name in os.listdir(_TASKS)}  # noqa: PTH208 - of numbers, not of paths
    except OSError:
        return set()


def _of_python() -> set[int]:
    return {thread.native_id for thread in threading.enumerate() if thread.native_id is not None}
