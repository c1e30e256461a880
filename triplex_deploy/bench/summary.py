"""Compute the result of a case from its latencies: percentiles, intervals, stages and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from triplex_deploy.bench.measure import Case, Round
from triplex_deploy.bench.result import (
    SERVER,
    SINGLE_STREAM,
    CaseResult,
    Cost,
    Latency,
    RoundSpread,
)
from triplex_deploy.bench.work import OTHER, STAGES

CONFIDENCE: Final = 0.95
STABLE_WIDTH: Final = 0.1
"""Width of the interval of a stable p99, at most, as a part of the p99."""
MAX_SAMPLES: Final = 2000
SATURATED: Final = 0.95
"""Busy part of the time above which the queue of a server only grows."""


def summarize(latencies_s: Sequence[float]) -> Latency:
    """Return percentiles in milliseconds of one or more times, linear between order statistics."""
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
    """Return the order statistics that enclose a quantile with ``CONFIDENCE``.

    They hold for any distribution, because the number of samples below the true quantile is
    binomial. The upper end is None if there are too few samples; the lower end is then the least
    sample. The samples must not depend on each other. Latencies of a queue do, so that their
    interval is too narrow.
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
    """Return the number of samples from which on the largest of them is an upper bound."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(quantile))


def tail_note(latency: Latency) -> str | None:
    """Return a note about a p99 that is not stable; None if it is stable."""
    if latency.p99_stable:
        return None
    if latency.p99_high is None:
        return (
            f"p99 of {latency.n} queries has no upper bound: "
            f"that takes at least {samples_needed(0.99)}; give more --seconds"
        )
    return (
        f"p99 of {latency.n} queries lies between {latency.p99_low:.3g} and "
        f"{latency.p99_high:.3g} ms (95 %); give more --seconds"
    )


def thin(latencies_s: Sequence[float]) -> tuple[float, ...]:
    """Return at most ``MAX_SAMPLES`` times in ms, evenly chosen, in the order of measurement."""
    chosen = np.asarray(latencies_s, np.float64)
    if len(chosen) > MAX_SAMPLES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_SAMPLES).astype(int)]
    return tuple(round(float(value) * 1e3, 4) for value in chosen)


class Counted(NamedTuple):
    """Operations and traffic of one run, or the reason why they are not known."""

    flops: int = 0
    traffic_bytes: int = 0
    absent: str | None = None


def case_result(case: Case, counted: Counted) -> CaseResult:
    """Return percentiles, throughput, stages and cost of a case over all its rounds."""
    rounds = case.rounds
    latencies = [latency for found in rounds for latency in found.latencies_s]
    latency = summarize(latencies)
    stages = _stages(rounds, len(latencies), latency.mean)
    work = case.work
    return CaseResult(
        key=case.key,
        subject=case.subject,
        graph=work.graph,
        scenario=case.scenario,
        axis=work.axis,
        size=work.size,
        rate_per_s=case.rate_per_s,
        latency_ms=latency,
        throughput_per_s=sum(r.rows for r in rounds) / sum(r.elapsed_s for r in rounds),
        unit=work.unit,
        mean_batch=sum(r.rows for r in rounds) / sum(r.calls for r in rounds),
        stages_ms=stages,
        stages_absent=_absent(case, stages),
        graphs_ms=_mean_ms([r.graphs_s for r in rounds], len(latencies)),
        rounds=tuple(_spread(found) for found in rounds),
        samples_ms=thin(latencies),
        cost=None if counted.absent else _cost(counted, latency.p50),
        cost_absent=counted.absent,
        cpu_ms=1e3 * case.cpu_s or None,
        metadata=dict(work.metadata),
        notes=tuple(note for note in (tail_note(latency), _overload_note(case)) if note),
    )


def _stages(rounds: list[Round], queries: int, mean_ms: float) -> dict[str, float]:
    """Return mean milliseconds per query in the order of ``STAGES``, then the remaining time."""
    means = _mean_ms([found.stages_s for found in rounds], queries)
    stages: dict[str, float] = {name: means[name] for name in STAGES if name in means}
    stages[OTHER] = max(0.0, mean_ms - sum(stages.values()))
    return stages


def _mean_ms(sums_s: list[dict[str, float]], queries: int) -> dict[str, float]:
    names = dict.fromkeys(name for sums in sums_s for name in sums)
    return {name: 1e3 * sum(s.get(name, 0.0) for s in sums_s) / queries for name in names}


def _absent(case: Case, stages: dict[str, float]) -> dict[str, str]:
    reasons = dict(case.work.absent)
    if case.scenario != SERVER:
        reasons["queue"] = "a query starts when the last has ended"
    if case.scenario == SINGLE_STREAM or case.work.limit == 1:
        reasons.setdefault("gather", "the input of a query is ready")
    return {name: reasons[name] for name in STAGES if name in reasons and name not in stages}


def _spread(found: Round) -> RoundSpread:
    latency = summarize(found.latencies_s)
    return RoundSpread(n=latency.n, min_ms=latency.min, p50_ms=latency.p50)


def _cost(counted: Counted, p50_ms: float) -> Cost:
    return Cost(
        flops=counted.flops,
        traffic_bytes=counted.traffic_bytes,
        flops_per_s=counted.flops / p50_ms * 1e3,
        bytes_per_s=counted.traffic_bytes / p50_ms * 1e3,
    )


def _overload_note(case: Case) -> str | None:
    busy = sum(r.busy_s for r in case.rounds) / sum(r.elapsed_s for r in case.rounds)
    if case.scenario != SERVER or busy < SATURATED:
        return None
    return (
        f"busy {busy:.0%} of the time: {case.rate_per_s:g}/s is more than it can serve; "
        "latencies grow with the length of the run"
    )
