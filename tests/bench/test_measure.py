"""Test how queries are sent and timed, on a clock of the test: scenarios, rounds, warm-up."""

import numpy as np
import pytest

from tests.bench.conftest import FakeClock, FakeWork
from triplex_deploy.bench.measure import Case, measure, poisson_arrivals, run_round, serve
from triplex_deploy.bench.result import OFFLINE, SERVER, SINGLE_STREAM, Settings
from triplex_deploy.bench.summary import Counted, case_result
from triplex_deploy.progress import Silent

SETTINGS = Settings(seconds=3.0, rounds=3, warmup_runs=2, max_runs=300, seed=0)
NEVER = np.empty(0)


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
        "queue": "a query starts when the last has ended",
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


def test_single_stream_runs_until_its_time_is_spent(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=0.25, size=4)
    found = run_round(work, SINGLE_STREAM, clock, 1.0, 100, NEVER)
    assert found.latencies_s == [0.25] * 4
    assert (found.rows, found.calls, found.elapsed_s) == (16, 4, 1.0)
    assert found.stages_s == {"compute": 1.0}


def test_slow_query_still_runs_once(clock: FakeClock) -> None:
    found = run_round(FakeWork(clock, call_s=60.0), SINGLE_STREAM, clock, 1.0, 100, NEVER)
    assert found.latencies_s == [60.0]


def test_number_of_runs_is_bounded(clock: FakeClock) -> None:
    found = run_round(FakeWork(clock, call_s=0.001), SINGLE_STREAM, clock, 1.0, 3, NEVER)
    assert found.calls == 3


def test_offline_fills_every_call(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=0.1, row_s=0.05, size=8)
    found = run_round(work, OFFLINE, clock, 1.0, 100, NEVER)
    assert work.calls == [8, 8]
    assert found.rows / found.elapsed_s == pytest.approx(16.0)


def test_server_waits_for_a_query_and_answers_it_alone(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=0.1, size=4)
    found = serve(work, clock, [0.5, 2.0])
    assert work.calls == [1, 1]
    assert clock.slept == [0.5, pytest.approx(1.4)]
    assert found.latencies_s == pytest.approx([0.1, 0.1])
    assert found.stages_s["queue"] == pytest.approx(0.0)
    assert found.busy_s == pytest.approx(0.2)
    assert found.elapsed_s == pytest.approx(2.1)


def test_queries_that_waited_share_a_call_and_count_their_wait(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=1.0, size=4)
    found = serve(work, clock, [0.0, 0.25, 0.5, 0.75])
    assert work.calls == [1, 3]
    assert found.latencies_s == pytest.approx([1.0, 1.75, 1.5, 1.25])
    assert found.stages_s["queue"] == pytest.approx(0.75 + 0.5 + 0.25)
    assert found.stages_s["compute"] == pytest.approx(4.0)  # each of four waited for its call
    assert (found.calls, found.rows) == (2, 4)


def test_a_call_takes_no_more_than_the_limit(clock: FakeClock) -> None:
    work = FakeWork(clock, call_s=1.0, size=2)
    found = serve(work, clock, [0.0] * 5)
    assert work.calls == [2, 2, 1]
    assert found.latencies_s == pytest.approx([1, 1, 2, 2, 3])


def test_arrivals_are_seeded_and_come_at_their_rate() -> None:
    arrivals = poisson_arrivals(50.0, 20_000, (7, 0))
    assert np.array_equal(arrivals, poisson_arrivals(50.0, 20_000, (7, 0)))
    assert not np.array_equal(arrivals, poisson_arrivals(50.0, 20_000, (7, 1)))
    gaps = np.diff(arrivals)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)  # exponential: as wide as its mean
