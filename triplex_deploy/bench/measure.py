"""Send queries in rounds, as the scenarios of MLPerf do, and record what surrounds them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bench.machine import Clock, probe_speed, share_of_others, used_ticks
from triplex_deploy.bench.result import OFFLINE, SERVER, SINGLE_STREAM, Settings
from triplex_deploy.bench.work import CallResult, Seconds, Work
from triplex_deploy.progress import Progress
from triplex_deploy.system import usable_cores

logger = logging.getLogger(__name__)


@dataclass
class Round:
    """What one stretch of measuring found; ``stages_s`` and ``graphs_s`` are sums over queries."""

    latencies_s: list[float] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=dict)
    graphs_s: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    calls: int = 0
    busy_s: float = 0.0
    elapsed_s: float = 0.0

    def add_call(self, work: Work, done: CallResult, took_s: float, queries: int = 1) -> None:
        """Count one call, whose stages every one of its queries waited for."""
        self.rows += done.rows
        self.calls += 1
        self.busy_s += took_s
        _add(self.stages_s, done.seconds, queries)
        _add(self.graphs_s, work.graph_seconds(), queries)


def run_round(
    work: Work,
    scenario: str,
    clock: Clock,
    seconds: float,
    at_most: int,
    arrivals: NDArray[np.float64],
) -> Round:
    """One round of a scenario; ``arrivals`` (seconds from its start) matter to Server alone."""
    if scenario == SINGLE_STREAM:
        return _one_after_another(work, work.query, clock, seconds, at_most)
    if scenario == OFFLINE:
        return _one_after_another(work, lambda: work.batch(work.limit), clock, seconds, at_most)
    return serve(work, clock, arrivals.tolist())


def poisson_arrivals(rate_per_s: float, count: int, seed: Sequence[int]) -> NDArray[np.float64]:
    """Times (count,) in seconds at which queries arrive, on average ``rate_per_s`` of them."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    return np.cumsum(gaps)


def serve(work: Work, clock: Clock, arrivals: Sequence[float]) -> Round:
    """Answer queries as they come: whatever waits goes into one call, up to ``work.limit``.

    Latency counts from the arrival, so that it includes the time in the queue.
    """
    found = Round()
    begin = clock.now()
    served = 0
    while served < len(arrivals):
        start = clock.now() - begin
        if arrivals[served] > start:
            clock.sleep(arrivals[served] - start)
            start = max(arrivals[served], clock.now() - begin)
        waiting = sum(arrival <= start for arrival in arrivals[served : served + work.limit])
        done = work.batch(waiting)
        end = clock.now() - begin
        arrived = arrivals[served : served + waiting]
        found.add_call(work, done, end - start, waiting)
        found.latencies_s += [end - arrival for arrival in arrived]
        _add(found.stages_s, {"queue": sum(start - arrival for arrival in arrived)}, 1)
        served += waiting
    found.elapsed_s = clock.now() - begin
    return found


def _one_after_another(
    work: Work, call: Callable[[], CallResult], clock: Clock, seconds: float, at_most: int
) -> Round:
    """The next call starts when the last has ended; at least one is made."""
    found = Round()
    begin = end = clock.now()
    while not found.calls or (end - begin < seconds and found.calls < at_most):
        start = clock.now()
        done = call()
        end = clock.now()
        found.latencies_s.append(end - start)
        found.add_call(work, done, end - start)
    found.elapsed_s = end - begin
    return found


def _add(sums: dict[str, float], seconds: Seconds, times: int) -> None:
    for name, took in seconds.items():
        sums[name] = sums.get(name, 0.0) + times * took


@dataclass
class Case:
    """Work in a scenario, for one subject, and the rounds measured so far."""

    subject: str
    work: Work
    scenario: str
    rate_per_s: float | None = None
    rounds: list[Round] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names the case across results of the same shape."""
        rate = "" if self.rate_per_s is None else f" at {self.rate_per_s:g}/s"
        work = self.work
        return f"{self.subject} | {work.graph} | {self.scenario}{rate} | {work.axis}={work.size}"


@dataclass(frozen=True)
class Surroundings:
    """What the machine was like, a value per round: seconds of the speed probe, and the part of
    our cores that other work took (empty where that cannot be read)."""

    probe_s: tuple[float, ...]
    others: tuple[float, ...]


def measure(
    cases: Sequence[Case], settings: Settings, clock: Clock, progress: Progress
) -> Surroundings:
    """Fill the rounds of every case."""
    progress.start("warming up", len(cases))
    for case in cases:
        _warm_up(case, settings.warmup_runs)
        progress.advance(1)
    probes, others = [], []
    progress.start("measuring", settings.rounds * len(cases))
    for number in range(settings.rounds):
        probes.append(probe_speed(clock))
        begin = used_ticks()
        for case in cases:
            case.rounds.append(_round(case, number, settings, clock))
            progress.advance(1)
        others.append(share_of_others(begin, used_ticks(), usable_cores()))
    return Surroundings(tuple(probes), tuple(share for share in others if share is not None))


def _warm_up(case: Case, runs: int) -> None:
    """Untimed calls; before a server, of a range of the sizes it may put together."""
    for _ in range(runs):
        if case.scenario == SINGLE_STREAM:
            case.work.query()
        else:
            case.work.batch(case.work.limit)
    if case.scenario == SERVER and runs:
        for power in range(case.work.limit.bit_length()):
            case.work.batch(min(2**power, case.work.limit))


def _round(case: Case, number: int, settings: Settings, clock: Clock) -> Round:
    seconds = settings.seconds / settings.rounds
    at_most = max(1, settings.max_runs // settings.rounds)
    rate = case.rate_per_s or 0.0
    count = max(1, min(at_most, round(rate * seconds)))
    arrivals = poisson_arrivals(rate or 1.0, count, (settings.seed, number))
    return run_round(case.work, case.scenario, clock, seconds, at_most, arrivals)
