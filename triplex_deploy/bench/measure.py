"""Rounds over all cases: each case is measured now and then, not once.

A disturbance of a few seconds then touches every case a little instead of one case wholly, and
the spread between a case's rounds says how much the machine changed meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from triplex_deploy.bench import other_work
from triplex_deploy.bench.clock import Clock, probe_speed
from triplex_deploy.bench.result import SERVER, SINGLE_STREAM, Settings
from triplex_deploy.bench.scenarios import Round, poisson_arrivals, run_round
from triplex_deploy.bench.work import Work
from triplex_deploy.progress import Progress
from triplex_deploy.system import usable_cores

logger = logging.getLogger(__name__)


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
        begin = other_work.now()
        for case in cases:
            case.rounds.append(_round(case, number, settings, clock))
            progress.advance(1)
        others.append(other_work.share_of_others(begin, other_work.now(), usable_cores()))
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
