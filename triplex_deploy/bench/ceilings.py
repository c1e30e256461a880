"""What the CPU can do at best, measured: the roof under which graphs are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from triplex_deploy.bench.clock import Clock
from triplex_deploy.bench.result import Ceilings

MATRIX: Final = 1024
COPY_BYTES: Final = 1 << 26
RUNS: Final = 20


def measure_ceilings(clock: Clock) -> Ceilings:
    """The best rates of a float32 matrix product and of a copy through NumPy, in this process."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, MATRIX, MATRIX), np.float32)
    product = np.empty_like(left)
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    matmul_s = _best(lambda: np.matmul(left, right, out=product), clock)
    copy_s = _best(lambda: np.copyto(target, source), clock)
    return Ceilings(
        flops_per_s=2 * MATRIX**3 / matmul_s,
        bytes_per_s=2 * COPY_BYTES / copy_s,  # read and written
        how=f"NumPy float32 matmul of {MATRIX} x {MATRIX}; copy of {COPY_BYTES >> 20} MiB, "
        "one thread",
    )


def _best(call: Callable[[], object], clock: Clock) -> float:
    took = []
    for _ in range(RUNS + 1):  # the first touches the memory
        begin = clock.now()
        call()
        took.append(clock.now() - begin)
    return min(took[1:])
