"""Send queries in rounds, as the scenarios of MLPerf do, and record what surrounds them."""

from __future__ import annotations

import logging
import time
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
    """The measurements of one case in one round; ``stages_s`` and ``graphs_s`` are sums."""

    latencies_s: list[float] = field(default_factory=list)
    """Of each query."""
    stages_s: dict[str, float] = field(default_factory=dict)
    graphs_s: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    calls: int = 0
    busy_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    """CPU seconds of all threads of this process together; 0 if they were not measured."""

    def add_call(self, work: Work, done: CallResult, took_s: float, queries: int = 1) -> None:
        """Count one call; each of its queries waited for all its stages."""
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
    """Measure one round of a scenario.

    Args:
        work: What to call.
        scenario: One of ``SCENARIOS``.
        clock: Measures the seconds, and waits.
        seconds: Time after which no query starts; at least one runs. Not for Server.
        at_most: Maximum number of queries. Not for Server.
        arrivals: Seconds from the start at which queries arrive, for Server alone.
    """
    begin = time.process_time()
    if scenario == SINGLE_STREAM:
        found = _one_after_another(work, work.query, clock, seconds, at_most)
    elif scenario == OFFLINE:
        found = _one_after_another(work, lambda: work.batch(work.limit), clock, seconds, at_most)
    else:
        found = serve(work, clock, arrivals.tolist())
    found.cpu_s = time.process_time() - begin
    return found


def poisson_arrivals(rate_per_s: float, count: int, seed: Sequence[int]) -> NDArray[np.float64]:
    """Return times (count,) in seconds at which queries arrive, on average ``rate_per_s``."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    return np.cumsum(gaps)


def serve(work: Work, clock: Clock, arrivals: Sequence[float]) -> Round:
    """Answer queries as they arrive: those that wait go into one call, at most ``work.limit``.

    Latency counts from the arrival, so it includes the time in the queue.
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
    """Make calls one after another, at least one."""
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
    name: str = ""
    """Name of a case that a script measures; empty to name it by its work and scenario."""

    @property
    def best_s(self) -> float:
        """Return the least seconds of a query: other work on the machine disturbed it least."""
        return min(latency for found in self.rounds for latency in found.latencies_s)

    @property
    def cpu_s(self) -> float:
        """Return the CPU seconds per query of all threads together, least of the rounds."""
        return min(found.cpu_s / len(found.latencies_s) for found in self.rounds)

    @property
    def key(self) -> str:
        """Return the name of the case, by which results are compared."""
        if self.name:
            return self.name
        rate = "" if self.rate_per_s is None else f" at {self.rate_per_s:g}/s"
        work = self.work
        return f"{self.subject} | {work.graph} | {self.scenario}{rate} | {work.axis}={work.size}"


@dataclass(frozen=True)
class Surroundings:
    """The state of the machine, a value per round."""

    probe_s: tuple[float, ...]
    """Seconds of the speed probe."""
    others: tuple[float, ...]
    """Part of the usable cores that other work took; empty if the system does not count it."""


def measure(
    cases: Sequence[Case], settings: Settings, clock: Clock, progress: Progress
) -> Surroundings:
    """Warm up every case, and fill its rounds; the cases take turns."""
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
    """Make calls that are not timed; for a server at several of the sizes that it may meet."""
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
