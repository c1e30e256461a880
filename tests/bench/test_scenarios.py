"""How queries are put together and timed, on a clock of the test's own."""

import numpy as np
import pytest

from tests.bench.conftest import FakeClock, FakeWork
from triplex_deploy.bench.measure import poisson_arrivals, run_round, serve
from triplex_deploy.bench.result import OFFLINE, SINGLE_STREAM

NEVER = np.empty(0)


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
