"""Percentiles of measured times, and how far the tail of them can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from triplex_deploy.bench.result import Latency

CONFIDENCE: Final = 0.95
STABLE_WIDTH: Final = 0.1
"""A p99 is stable if its interval is no wider than this part of it."""
MAX_SAMPLES: Final = 2000


def summarise(latencies_s: Sequence[float]) -> Latency:
    """Percentiles in milliseconds of at least one time, linear between order statistics."""
    ordered = np.sort(np.asarray(latencies_s, np.float64)) * 1e3
    p50, p90, p95, p99 = (float(value) for value in np.percentile(ordered, (50, 90, 95, 99)))
    low, high = quantile_interval(ordered, 0.99)
    return Latency(
        n=len(ordered),
        min=float(ordered[0]),
        mean=float(ordered.mean()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(ordered[-1]),
        p99_low=low,
        p99_high=high,
        p99_stable=high is not None and high - low <= STABLE_WIDTH * p99,
    )


def quantile_interval(ordered: NDArray[np.float64], quantile: float) -> tuple[float, float | None]:
    """Order statistics that enclose a quantile with ``CONFIDENCE``, whatever the distribution.

    The number of samples below the true quantile is binomial. The upper end is None if there are
    too few samples for one; the lower is then still the least sample. Assumes that samples do not
    depend on each other, which queueing latencies do: their interval is too narrow.
    """
    n = len(ordered)
    below = bdtr(np.arange(n + 1, dtype=np.float64), n, quantile)  # P(count <= k)
    tail = (1 - CONFIDENCE) / 2
    lower = int(np.count_nonzero(below <= tail))  # 1-based rank; 0: none
    ranks = np.flatnonzero(below >= 1 - tail) + 1  # 1-based ranks that lie above
    low = float(ordered[max(lower, 1) - 1])
    if len(ranks) == 0 or ranks[0] > n:
        return low, None
    return low, float(ordered[ranks[0] - 1])


def samples_needed(quantile: float) -> int:
    """Least number of samples whose largest bounds the quantile from above."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(quantile))


def tail_note(latency: Latency) -> str | None:
    """What to say of a p99 that is not stable; None if it is."""
    if latency.p99_stable:
        return None
    if latency.p99_high is None:
        return (
            f"p99 of {latency.n} queries has no upper bound: "
            f"it takes {samples_needed(0.99)} at least; give more --seconds"
        )
    return (
        f"p99 of {latency.n} queries lies between {latency.p99_low:.3g} and "
        f"{latency.p99_high:.3g} ms (95 %); give more --seconds"
    )


def thin(latencies_s: Sequence[float]) -> tuple[float, ...]:
    """At most ``MAX_SAMPLES`` times in ms, evenly picked in the order they were measured."""
    chosen = np.asarray(latencies_s, np.float64)
    if len(chosen) > MAX_SAMPLES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_SAMPLES).astype(int)]
    return tuple(round(float(value) * 1e3, 4) for value in chosen)
