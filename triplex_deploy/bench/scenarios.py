"""How queries arrive: the three scenarios named as in MLPerf inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bench.clock import Clock
from triplex_deploy.bench.result import OFFLINE, SINGLE_STREAM
from triplex_deploy.bench.stages import Seconds
from triplex_deploy.bench.work import Done, Work


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

    def add_call(self, work: Work, done: Done, took_s: float, queries: int = 1) -> None:
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
    work: Work, call: Callable[[], Done], clock: Clock, seconds: float, at_most: int
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
