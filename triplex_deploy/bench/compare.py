"""Two results of the same cases: what became slower, and what is only noise.

Medians are compared where they are known well enough: where the medians of a case's rounds agree.
Elsewhere other work was on the machine, which makes runs slower and never faster, so the fastest
runs are compared instead, and trusted as far as the two quietest rounds agree on them. They must
not contradict the medians either. Neither is trusted beyond what the other work could have cost,
by the part of the cores it took. If the speed probe says that the machine itself was slower, that
is granted on top.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

from triplex_deploy.bench.result import BenchResult, CaseResult
from triplex_deploy.errors import ConfigError

THRESHOLD: Final = 0.1
ERRORS: Final = 2.0
"""Standard errors of a median that count as its uncertainty."""
GAPS: Final = 2.0
"""Gaps between the fastest runs of the two quietest rounds that count as theirs."""

Verdict = Literal["slower", "faster", "same", "within noise"]
Measure = Literal["median", "fastest"]


@dataclass(frozen=True)
class CaseComparison:
    """One case in both results, ``by`` the measure that is certain enough.

    ``ratio`` is after over before, above 1 is slower; ``noise`` its uncertainty, as a part of it.
    """

    key: str
    by: Measure
    before_ms: float
    after_ms: float
    ratio: float
    noise: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All common cases, and what else a reader must know."""

    threshold: float
    machine_ratio: float
    cases: tuple[CaseComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def slower(self) -> list[CaseComparison]:
        return [case for case in self.cases if case.verdict == "slower"]

    @property
    def untold(self) -> int:
        """Cases of which nothing can be said: no slowdown was found, and none was ruled out."""
        return sum(case.verdict == "within noise" for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        return {"regression": bool(self.slower), "untold": self.untold, **asdict(self)}


def compare_results(
    before: BenchResult, after: BenchResult, threshold: float = THRESHOLD
) -> Comparison:
    """Match cases by key and judge each; raises ``ConfigError`` if there are none in common."""
    if not 0 < threshold < math.inf:
        raise ConfigError(f"threshold={threshold}: give a positive part, such as 0.1 for 10 %")
    old = {case.key: case for case in before.cases}
    new = {case.key: case for case in after.cases}
    common = [key for key in old if key in new]
    if not common:
        raise ConfigError(
            "no case is in both results; run bench with the same graphs, sizes and scenarios"
        )
    machine_ratio = min(after.probe_ms) / min(before.probe_ms)
    other_work = _OtherWork.of(before, after)
    return Comparison(
        threshold=threshold,
        machine_ratio=machine_ratio,
        cases=tuple(
            _compare(old[key], new[key], threshold, machine_ratio, other_work) for key in common
        ),
        only_before=tuple(key for key in old if key not in new),
        only_after=tuple(key for key in new if key not in old),
        warnings=tuple(_warnings(before, after, machine_ratio, threshold)),
    )


class _OtherWork(NamedTuple):
    """By how much other work can have slowed a median and the fastest run, as a part of it.

    Work that takes a part p of the cores leaves 1 - p, so that all may take 1 / (1 - p) as long.
    """

    median: float
    fastest: float

    @classmethod
    def of(cls, *results: BenchResult) -> _OtherWork:
        typical = max(statistics.median(found.other_work or (0.0,)) for found in results)
        quietest = max(min(found.other_work or (0.0,)) for found in results)
        return cls(_slowed_by(typical), _slowed_by(quietest))


def _slowed_by(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def _compare(
    before: CaseResult,
    after: CaseResult,
    threshold: float,
    machine_ratio: float,
    other_work: _OtherWork,
) -> CaseComparison:
    by: Measure = "median"
    old, new = _median(before), _median(after)
    old_fastest, new_fastest = _fastest(before), _fastest(after)
    noise = max(old.noise + new.noise, other_work.median)
    if noise > threshold / 2:
        by, old, new = "fastest", old_fastest, new_fastest
        noise = max(old.noise + new.noise, other_work.fastest)
    ratio = new.ms / old.ms
    verdict = _verdict(ratio, noise, threshold, machine_ratio)
    if verdict != "same" and not _agrees(new_fastest.ms / old_fastest.ms, ratio, threshold):
        verdict = "within noise"
    return CaseComparison(before.key, by, old.ms, new.ms, ratio, noise, verdict)


def _agrees(fastest_ratio: float, ratio: float, threshold: float) -> bool:
    """Whether the fastest runs moved the same way; steady other work moves the medians alone."""
    part = threshold / 2
    return fastest_ratio - 1 > part if ratio > 1 else 1 / fastest_ratio - 1 > part


def _verdict(ratio: float, noise: float, threshold: float, machine_ratio: float) -> Verdict:
    certain = max(threshold, noise)
    if ratio / max(1.0, machine_ratio) - 1 > certain:
        return "slower"
    if 1 / ratio * min(1.0, machine_ratio) - 1 > certain:
        return "faster"
    if noise <= threshold and max(ratio, 1 / ratio) - 1 <= threshold:
        return "same"
    return "within noise"


class _Estimate(NamedTuple):
    """A time and its uncertainty, as a part of it."""

    ms: float
    noise: float


def _median(case: CaseResult) -> _Estimate:
    """Of the rounds' medians, so that one long round does not outweigh the others."""
    medians = [found.p50_ms for found in case.rounds]
    if len(medians) < 2:
        return _Estimate(medians[0], math.inf)
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    middle = statistics.median(medians)
    return _Estimate(middle, ERRORS * error / middle)


def _fastest(case: CaseResult) -> _Estimate:
    """Uncertain by how far the second-quietest round's fastest run lies above the quietest's."""
    floors = sorted(found.min_ms for found in case.rounds)
    if len(floors) < 2:
        return _Estimate(floors[0], math.inf)
    return _Estimate(floors[0], GAPS * (floors[1] / floors[0] - 1))


def _warnings(
    before: BenchResult, after: BenchResult, machine_ratio: float, threshold: float
) -> list[str]:
    found = []
    for name in ("cpu", "usable_cores", "gpus"):
        was, now = getattr(before.machine, name), getattr(after.machine, name)
        if was != now:
            found.append(f"different machines: {name} was {was}, is {now}")
    if max(machine_ratio, 1 / machine_ratio) - 1 > threshold / 2:
        found.append(
            f"the machine itself ran at {1 / machine_ratio:.2f} times its earlier speed; "
            "judged by what goes beyond that"
        )
    for name, result in (("before", before), ("after", after)):
        if not result.other_work:
            found.append(f"{name}: other work on the machine could not be read; mind its load")
        elif _slowed_by(min(result.other_work)) > threshold:
            found.append(
                f"{name}: other work took {statistics.median(result.other_work):.0%} of the cores; "
                f"a change of {threshold:.0%} cannot be told, measure again on a quiet machine"
            )
    old = {subject.label: subject for subject in before.subjects}
    for subject in after.subjects:
        earlier = old.get(subject.label)
        if earlier is not None and earlier.bundle_id != subject.bundle_id:
            found.append(f"{subject.label}: bundle {earlier.bundle_id} became {subject.bundle_id}")
        if earlier is not None and earlier.threads != subject.threads:
            found.append(f"{subject.label}: threads {earlier.threads} became {subject.threads}")
    return found
