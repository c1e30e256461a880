"""Rounds, warm-up and the summary of a case."""

import pytest

from tests.bench.conftest import FakeClock, FakeWork
from triplex_deploy.bench.measure import Case, measure
from triplex_deploy.bench.result import OFFLINE, SERVER, SINGLE_STREAM, Settings
from triplex_deploy.bench.summary import Counted, case_result
from triplex_deploy.progress import Silent

SETTINGS = Settings(seconds=3.0, rounds=3, warmup_runs=2, max_runs=300, seed=0)


def test_cases_take_turns_and_warm_up_is_not_counted(clock: FakeClock) -> None:
    order: list[str] = []

    class Named(FakeWork):
        def __init__(self, name: str) -> None:
            super().__init__(clock, call_s=1.0)
            self.name = name

        def batch(self, queries: int):
            order.append(self.name)
            return super().batch(queries)

    cases = [Case("a", Named("A"), SINGLE_STREAM), Case("b", Named("B"), SINGLE_STREAM)]
    around = measure(cases, SETTINGS, clock, Silent())
    assert "".join(order) == "AABB" + "AB" * 3
    assert [len(case.rounds) for case in cases] == [3, 3]
    assert len(around.probe_s) == 3
    assert len(around.others) in (0, 3)
    assert all(0 <= share <= 1 for share in around.others)


def test_server_is_warmed_up_at_the_sizes_it_may_meet(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=0.001, size=12)
    measure([Case("a", work, SERVER, rate_per_s=1.0)], SETTINGS, clock, Silent())
    assert work.calls[:6] == [12, 12, 1, 2, 4, 8]


def test_server_gets_as_many_queries_as_its_rate_says(clock: FakeClock) -> None:
    case = Case("a", FakeWork(clock, call_s=0.001, size=4), SERVER, rate_per_s=20.0)
    measure([case], SETTINGS, clock, Silent())
    assert [len(found.latencies_s) for found in case.rounds] == [20, 20, 20]


def test_keys_tell_cases_apart(clock: FakeClock) -> None:
    work = FakeWork(clock, 0.1, size=8)
    assert (
        Case("fp32 onnxruntime cpu", work, SINGLE_STREAM).key
        == "fp32 onnxruntime cpu | tile_encoder | SingleStream | batch=8"
    )
    assert Case("x", work, SERVER, 2.5).key == "x | tile_encoder | Server at 2.5/s | batch=8"


def test_summary_gives_rates_stages_and_reasons(clock: FakeClock) -> None:
    case = Case("a", FakeWork(clock, call_s=0.25, size=4), OFFLINE)
    measure([case], SETTINGS, clock, Silent())
    result = case_result(case, Counted(flops=10**9, traffic_bytes=10**6))
    assert result.throughput_per_s == pytest.approx(16.0)
    assert result.mean_batch == 4.0
    assert result.latency_ms.n == 12
    assert result.stages_ms["compute"] == pytest.approx(250.0)
    assert result.stages_ms["other"] == pytest.approx(0.0, abs=1e-9)
    assert result.stages_absent == {
        "queue": "a query starts when the one before has ended",
        "write": "outputs are not kept",
    }
    assert result.cost is not None
    assert result.cost.flops_per_s == pytest.approx(4e9)
    assert [found.n for found in result.rounds] == [4, 4, 4]
    assert any("368" in note for note in result.notes)


def test_time_outside_the_known_stages_is_other(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=0.25)
    inner = work.batch

    def with_overhead(queries: int):
        done = inner(queries)
        clock.advance(0.75)
        return done

    work.batch = with_overhead  # type: ignore[method-assign]
    case = Case("a", work, SINGLE_STREAM)
    measure([case], SETTINGS, clock, Silent())
    stages = case_result(case, Counted(absent="no onnx")).stages_ms
    assert stages == {"compute": pytest.approx(250.0), "other": pytest.approx(750.0)}


def test_uncounted_cost_says_why(clock: FakeClock) -> None:
    case = Case("a", FakeWork(clock, call_s=0.25), SINGLE_STREAM)
    measure([case], SETTINGS, clock, Silent())
    result = case_result(case, Counted(absent="onnx is not installed"))
    assert (result.cost, result.cost_absent) == (None, "onnx is not installed")


def test_server_that_cannot_keep_up_is_named(clock: FakeClock) -> None:
    slow = Case("a", FakeWork(clock, call_s=0.5), SERVER, rate_per_s=10.0)
    fast = Case("b", FakeWork(clock, call_s=0.001), SERVER, rate_per_s=10.0)
    measure([slow, fast], SETTINGS, clock, Silent())
    assert "10/s is more than it can serve" in " ".join(case_result(slow, Counted()).notes)
    assert "more than it can serve" not in " ".join(case_result(fast, Counted()).notes)
    assert case_result(slow, Counted()).stages_ms["queue"] > 500
