"""Test percentiles and their intervals on made-up samples."""

import numpy as np
import pytest

from triplex_deploy.bench.summary import (
    quantile_interval,
    samples_needed,
    summarize,
    tail_note,
    thin,
)


def test_percentiles_are_those_of_the_sorted_times() -> None:
    seconds = [value / 1000 for value in range(101, 0, -1)]  # 1 to 101 ms, backwards
    latency = summarize(seconds)
    assert (latency.n, latency.min, latency.max) == (101, 1.0, 101.0)
    assert latency.mean == pytest.approx(51)
    assert latency.p50 == pytest.approx(51)
    assert latency.p90 == pytest.approx(91)
    assert latency.p95 == pytest.approx(96)
    assert latency.p99 == pytest.approx(100)


def test_single_time_is_every_percentile_and_bounds_nothing() -> None:
    latency = summarize([0.004])
    assert {latency.min, latency.p50, latency.p99, latency.max, latency.p99_low} == {4.0}
    assert latency.p99_high is None
    assert not latency.p99_stable


def test_median_interval_is_the_textbook_one() -> None:
    # n=20, 95 %: the 6th and the 15th order statistic, a value of every table of the sign test.
    assert quantile_interval(np.arange(1.0, 21.0), 0.5) == (6.0, 15.0)


def test_p99_takes_368_samples_to_be_bounded() -> None:
    assert samples_needed(0.99) == 368
    assert quantile_interval(np.arange(367.0), 0.99)[1] is None
    assert quantile_interval(np.arange(368.0), 0.99)[1] == 367.0


def test_interval_covers_the_true_quantile_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    true = -np.log(1 - 0.99)  # of the exponential distribution
    hits = 0
    for _ in range(500):
        low, high = quantile_interval(np.sort(rng.exponential(size=1000)), 0.99)
        assert high is not None
        hits += low <= true <= high
    assert hits / 500 >= 0.94


def test_p99_is_stable_only_with_enough_samples_and_a_narrow_tail() -> None:
    rng = np.random.default_rng(2)
    narrow = rng.normal(0.1, 0.002, 1000)
    assert summarize(narrow.tolist()).p99_stable
    assert tail_note(summarize(narrow.tolist())) is None
    wide = rng.lognormal(-3, 1.0, 1000)
    assert not summarize(wide.tolist()).p99_stable
    assert "lies between" in str(tail_note(summarize(wide.tolist())))
    assert "takes at least 368" in str(tail_note(summarize(narrow[:50].tolist())))


def test_thinning_keeps_order_and_both_ends() -> None:
    kept = thin([value / 1000 for value in range(5001)])
    assert len(kept) == 2000
    assert (kept[0], kept[-1]) == (0.0, 5000.0)
    assert list(kept) == sorted(kept)
    assert thin([0.0012345678]) == (1.2346,)
