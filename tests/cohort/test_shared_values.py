"""Outcomes share what is equal, and stay what they are."""

from pathlib import Path

from tests.cohort.stub_model import job_of
from triplex_deploy.cohort.job import Outcome
from triplex_deploy.cohort.shared_values import SharedValues


def outcome(**metadata: object) -> Outcome:
    return Outcome(job_of(Path("a.png"), Path("out")), "skipped", 0.0, metadata)


def test_equal_values_are_one_object() -> None:
    shared = SharedValues()
    first = shared.of(outcome(panel=["A", "B"], spots=4, timings={"total": 1.0}))
    second = shared.of(outcome(panel=["A", "B"], spots=5, timings={"total": 2.0}))
    assert second.metadata == {"panel": ["A", "B"], "spots": 5, "timings": {"total": 2.0}}
    assert first.metadata == {"panel": ["A", "B"], "spots": 4, "timings": {"total": 1.0}}
    assert second.metadata["panel"] is first.metadata["panel"]


def test_order_and_keys_of_each_are_kept() -> None:
    shared = SharedValues()
    shared.of(outcome(a=1, b=2))
    second = shared.of(outcome(c=3, a=1))
    assert list(second.metadata or {}) == ["c", "a"]
    failed = Outcome(job_of(Path("a.png"), Path("out")), "failed", 0.0, error="torn")
    assert shared.of(failed) is failed
