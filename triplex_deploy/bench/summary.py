"""Measured rounds of a case as its entry in the result."""

from __future__ import annotations

from typing import Final, NamedTuple

from triplex_deploy.bench.latency import summarise, tail_note, thin
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.result import (
    SERVER,
    SINGLE_STREAM,
    CaseResult,
    Cost,
    RoundSpread,
)
from triplex_deploy.bench.scenarios import Round
from triplex_deploy.bench.stages import OTHER, STAGES

SATURATED: Final = 0.95
"""Busy part of the time above which a server's queue only grows."""


class Counted(NamedTuple):
    """Operations and traffic of one run, or why they are not known."""

    flops: int = 0
    traffic_bytes: int = 0
    absent: str | None = None


def case_result(case: Case, counted: Counted) -> CaseResult:
    """Percentiles, throughput, stages and cost of one case, over all its rounds."""
    rounds = case.rounds
    latencies = [latency for found in rounds for latency in found.latencies_s]
    latency = summarise(latencies)
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
        facts=dict(work.facts),
        notes=tuple(note for note in (tail_note(latency), _overload_note(case)) if note),
    )


def _stages(rounds: list[Round], queries: int, mean_ms: float) -> dict[str, float]:
    """Mean milliseconds per query in the order of ``STAGES``, and what lies between them."""
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
        reasons["queue"] = "a query starts when the one before has ended"
    if case.scenario == SINGLE_STREAM or case.work.limit == 1:
        reasons.setdefault("gather", "the input of a query lies ready")
    return {name: reasons[name] for name in STAGES if name in reasons and name not in stages}


def _spread(found: Round) -> RoundSpread:
    latency = summarise(found.latencies_s)
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
        f"busy {busy:.0%} of the time: {case.rate_per_s:g}/s is more than it can serve, "
        "latencies grow with the length of the run"
    )
