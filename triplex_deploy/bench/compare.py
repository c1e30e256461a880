"""Compare two results of the same cases: what became slower, and what is only noise.

If the medians of a case's rounds agree, medians are compared. If they do not, other work was on the
machine. It makes runs slower and never faster, so the fastest runs are compared instead, within the
gap between the two quietest rounds. Their change must have the direction of the medians' change.
Both are trusted only beyond what the other work could have cost, by the part of the cores that it
took. If the speed probe shows that the machine itself was slower, that is subtracted as well.
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
"""Uncertainty of a median, in standard errors."""
GAPS: Final = 2.0
"""Uncertainty of the fastest run, in gaps between the fastest runs of the two quietest rounds."""

Verdict = Literal["slower", "faster", "same", "within noise"]
Measure = Literal["median", "fastest"]


@dataclass(frozen=True)
class CaseComparison:
    """A case that is in both results."""

    key: str
    """Name of the case."""
    by: Measure
    """What was compared."""
    before_ms: float
    after_ms: float
    ratio: float
    """After over before; above 1 is slower."""
    noise: float
    """Uncertainty of the ratio, as a part of it."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All common cases, and warnings about how comparable the results are."""

    threshold: float
    machine_ratio: float
    cases: tuple[CaseComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def slower(self) -> list[CaseComparison]:
        """Return the cases that became slower."""
        return [case for case in self.cases if case.verdict == "slower"]

    @property
    def undecided(self) -> int:
        """Return the number of cases in which a slowdown was neither found nor ruled out."""
        return sum(case.verdict == "within noise" for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, and whether a case became slower."""
        return {"regression": bool(self.slower), "undecided": self.undecided, **asdict(self)}


def compare_results(
    before: BenchResult, after: BenchResult, threshold: float = THRESHOLD
) -> Comparison:
    """Match cases by key, and decide about each.

    Args:
        before: The earlier result.
        after: The later result.
        threshold: Part by which a case may become slower.

    Raises:
        ConfigError: If the threshold is not positive, or the results have no case in common.
    """
    if not 0 < threshold < math.inf:
        raise ConfigError(f"threshold={threshold}: give a positive part, such as 0.1 for 10 %")
    old = {case.key: case for case in before.cases}
    new = {case.key: case for case in after.cases}
    common = [key for key in old if key in new]
    if not common:
        raise ConfigError(
            "no case is in both results; run bench with the same graphs, sizes and scenarios"
        )
    has_probes = bool(after.probe_ms and before.probe_ms)
    machine_ratio = min(after.probe_ms) / min(before.probe_ms) if has_probes else 1.0
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
    """By how much other work can have slowed a median and the fastest run, as a part of each.

    Work that takes a part p of the cores leaves 1 - p, so everything may take 1 / (1 - p) as long.
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
    """Return whether the fastest runs changed in the same direction as the medians.

    Other work that is there all the time slows medians alone.
    """
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
    """A time, and its uncertainty as a part of the time."""

    ms: float
    noise: float


def _median(case: CaseResult) -> _Estimate:
    """Return the median of the rounds' medians, so that a long round has no larger weight."""
    medians = [found.p50_ms for found in case.rounds]
    if len(medians) < 2:
        return _Estimate(medians[0], math.inf)
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    middle = statistics.median(medians)
    return _Estimate(middle, ERRORS * error / middle)


def _fastest(case: CaseResult) -> _Estimate:
    """Return the fastest run, with its gap to the fastest run of the second quietest round."""
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
    if not (before.probe_ms and after.probe_ms):
        found.append("the speed of the machine was not measured; compare on one machine alone")
    if max(machine_ratio, 1 / machine_ratio) - 1 > threshold / 2:
        found.append(
            f"the machine itself ran at {1 / machine_ratio:.2f} times its earlier speed; "
            "only what goes beyond that counts"
        )
    for name, result in (("before", before), ("after", after)):
        if not result.other_work:
            found.append(f"{name}: other work on the machine could not be read; see its load")
        elif _slowed_by(min(result.other_work)) > threshold:
            found.append(
                f"{name}: other work took {statistics.median(result.other_work):.0%} of the cores; "
                f"a change of {threshold:.0%} cannot be seen, measure again on a quiet machine"
            )
    old = {subject.label: subject for subject in before.subjects}
    for subject in after.subjects:
        earlier = old.get(subject.label)
        if earlier is not None and earlier.bundle_id != subject.bundle_id:
            found.append(f"{subject.label}: bundle {earlier.bundle_id} became {subject.bundle_id}")
        if earlier is not None and earlier.threads != subject.threads:
            found.append(f"{subject.label}: threads {earlier.threads} became {subject.threads}")
    return found
