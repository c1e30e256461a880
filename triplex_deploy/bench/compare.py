"""Two results of the same cases: what became slower, and what is only noise.

Other work on a machine makes runs slower, never faster. So a case counts as slower only if its
median and its floor, the fastest run of all, both moved by more than the threshold, the floor by
more than it is uncertain, and that uncertainty is how far the two quietest rounds disagree. If the
speed probe says that the machine itself was slower, that is granted on top.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from triplex_deploy.bench.result import BenchResult, CaseResult
from triplex_deploy.errors import ConfigError

THRESHOLD: Final = 0.1

Verdict = Literal["slower", "faster", "same", "within noise"]


@dataclass(frozen=True)
class CaseComparison:
    """One case in both results; ratios are after over before, so above 1 is slower.

    ``noise`` is the uncertainty of ``floor_ratio``, as a part of it.
    """

    key: str
    before_ms: float
    after_ms: float
    ratio: float
    floor_ratio: float
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

    def to_dict(self) -> dict[str, Any]:
        return {"regression": bool(self.slower), **asdict(self)}


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
    return Comparison(
        threshold=threshold,
        machine_ratio=machine_ratio,
        cases=tuple(_compare(old[key], new[key], threshold, machine_ratio) for key in common),
        only_before=tuple(key for key in old if key not in new),
        only_after=tuple(key for key in new if key not in old),
        warnings=tuple(_warnings(before, after, machine_ratio, threshold)),
    )


def _compare(
    before: CaseResult, after: CaseResult, threshold: float, machine_ratio: float
) -> CaseComparison:
    before_ms, after_ms = _median(before), _median(after)
    before_floor, after_floor = _floor(before), _floor(after)
    ratio, floor_ratio = after_ms / before_ms, after_floor / before_floor
    noise = _floor_noise(before) + _floor_noise(after)
    return CaseComparison(
        key=before.key,
        before_ms=before_ms,
        after_ms=after_ms,
        ratio=ratio,
        floor_ratio=floor_ratio,
        noise=noise,
        verdict=_verdict(ratio, floor_ratio, noise, threshold, machine_ratio),
    )


def _verdict(
    ratio: float, floor_ratio: float, noise: float, threshold: float, machine_ratio: float
) -> Verdict:
    if _exceeds(ratio, threshold):
        beyond = _exceeds(floor_ratio / max(1.0, machine_ratio), max(threshold, noise))
        return "slower" if beyond else "within noise"
    if _exceeds(1 / ratio, threshold):
        beyond = _exceeds(1 / floor_ratio * min(1.0, machine_ratio), max(threshold, noise))
        return "faster" if beyond else "within noise"
    return "same"


def _exceeds(ratio: float, part: float) -> bool:
    return ratio - 1 > part


def _median(case: CaseResult) -> float:
    """Of the rounds' medians, so that one long round does not outweigh the others."""
    return statistics.median(found.p50_ms for found in case.rounds)


def _floor(case: CaseResult) -> float:
    return min(found.min_ms for found in case.rounds)


def _floor_noise(case: CaseResult) -> float:
    """How far the second-quietest round's floor lies above the quietest's, as a part of it."""
    floors = sorted(found.min_ms for found in case.rounds)
    return floors[1] / floors[0] - 1 if len(floors) > 1 else math.inf


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
    old = {subject.label: subject for subject in before.subjects}
    for subject in after.subjects:
        earlier = old.get(subject.label)
        if earlier is not None and earlier.bundle_id != subject.bundle_id:
            found.append(f"{subject.label}: bundle {earlier.bundle_id} became {subject.bundle_id}")
        if earlier is not None and earlier.threads != subject.threads:
            found.append(f"{subject.label}: threads {earlier.threads} became {subject.threads}")
    return found
