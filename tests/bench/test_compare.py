"""What counts as slower, on rounds made up: drift, bursts of other work, real slowdowns."""

import dataclasses

import numpy as np
import pytest

from tests.bench.conftest import make_case, make_result
from triplex_deploy.bench.compare import compare_results
from triplex_deploy.bench.result import BenchResult
from triplex_deploy.errors import ConfigError

QUIET = [[10.0, 10.1, 10.3], [10.05, 10.2, 10.2], [10.02, 10.1, 10.4]]


def scaled(rounds: list[list[float]], factor: float) -> list[list[float]]:
    return [[factor * value for value in found] for found in rounds]


def verdict(before, after, **options):
    (case,) = compare_results(make_result(make_case(before)), make_result(make_case(after))).cases
    return case.verdict


def noisy_result(rng: np.random.Generator, factor: float = 1.0) -> BenchResult:
    """A shared machine: jitter, and rounds in which everything, the probe too, takes longer."""
    rounds, probes = [], []
    for _ in range(5):
        burst = rng.uniform(1.2, 2.0) if rng.random() < 0.3 else 1.0
        times = 10.0 * factor * burst * (1 + np.abs(rng.normal(0, 0.02, 20)))
        rounds.append(times.tolist())
        probes.append(1 + 0.9 * (burst - 1) + abs(rng.normal(0, 0.02)))
    return make_result(make_case(rounds), probe_ms=probes)


def test_slowdown_of_a_fifth_is_caught() -> None:
    comparison = compare_results(
        make_result(make_case(QUIET)), make_result(make_case(scaled(QUIET, 1.2)))
    )
    (case,) = comparison.slower
    assert case.by == "median"
    assert case.ratio == pytest.approx(1.2)
    assert comparison.to_dict()["regression"] is True


def test_equal_runs_and_small_changes_are_the_same() -> None:
    assert verdict(QUIET, QUIET) == "same"
    assert verdict(QUIET, scaled(QUIET, 1.08)) == "same"
    assert verdict(QUIET, scaled(QUIET, 0.93)) == "same"


def test_speedup_is_reported_and_no_regression() -> None:
    comparison = compare_results(
        make_result(make_case(QUIET)), make_result(make_case(scaled(QUIET, 0.7)))
    )
    assert comparison.cases[0].verdict == "faster"
    assert comparison.to_dict()["regression"] is False


def test_other_work_in_some_rounds_leaves_the_fastest_runs_to_compare() -> None:
    disturbed = [scaled([QUIET[0]], 1.5)[0], QUIET[1], QUIET[2]]
    before, after = make_result(make_case(QUIET)), make_result(make_case(disturbed))
    (case,) = compare_results(before, after).cases
    assert (case.by, case.verdict) == ("fastest", "same")
    slower = make_result(make_case(scaled(disturbed, 1.2)))
    (case,) = compare_results(before, slower).cases
    assert (case.by, case.verdict) == ("fastest", "slower")


def test_other_work_in_all_rounds_but_one_is_noise() -> None:
    disturbed = [scaled([QUIET[0]], 1.5)[0], scaled([QUIET[1]], 1.6)[0], QUIET[2]]
    assert verdict(QUIET, disturbed) == "within noise"


def test_steady_other_work_that_lets_a_run_through_is_noise() -> None:
    disturbed = [[10.0, 15.1, 15.3], [10.1, 15.2, 15.2], [10.0, 15.1, 15.3]]
    assert verdict(QUIET, disturbed) == "within noise"


def test_change_smaller_than_its_uncertainty_is_noise() -> None:
    wandering = [[10.0], [14.0], [15.0]]
    assert verdict(wandering, scaled(wandering, 1.3)) == "within noise"


def test_single_round_proves_nothing() -> None:
    assert verdict([QUIET[0]], scaled([QUIET[0]], 1.5)) == "within noise"


def test_bursts_flag_nothing_and_seldom_hide_a_slowdown_of_a_fifth() -> None:
    rng = np.random.default_rng(3)
    flagged = caught = 0
    for _ in range(300):
        before = noisy_result(rng)
        flagged += len(compare_results(before, noisy_result(rng)).slower)
        caught += len(compare_results(before, noisy_result(rng, 1.2)).slower)
    assert flagged == 0
    assert caught > 270


def test_other_work_that_could_explain_a_slowdown_hides_it() -> None:
    before = make_result(make_case(QUIET))
    slower = make_case(scaled(QUIET, 1.2))
    quiet = make_result(slower, other_work=(0.05, 0.04, 0.06))  # may cost up to 6 %
    busy = make_result(slower, other_work=(0.4, 0.2, 0.3))  # 20 % of the cores: up to 25 %
    assert compare_results(before, quiet).cases[0].verdict == "slower"
    comparison = compare_results(before, busy)
    assert (comparison.cases[0].by, comparison.cases[0].verdict) == ("fastest", "within noise")
    assert comparison.cases[0].noise == pytest.approx(0.25)
    assert "after: other work took 30% of the cores" in comparison.warnings[0]
    assert (comparison.undecided, comparison.to_dict()["undecided"]) == (1, 1)


def test_starved_run_is_never_a_regression() -> None:
    before = make_result(make_case(QUIET))
    after = make_result(make_case(scaled(QUIET, 6.7)), other_work=(0.97, 0.98, 0.97))
    assert compare_results(before, after).cases[0].verdict == "within noise"
    all_of_it = make_result(make_case(scaled(QUIET, 6.7)), other_work=(1.0, 1.0, 1.0))
    assert compare_results(before, all_of_it).cases[0].verdict == "within noise"


def test_one_quiet_round_is_enough_for_the_fastest_runs() -> None:
    before = make_result(make_case(QUIET))
    after = make_result(make_case(scaled(QUIET, 1.2)), other_work=(0.6, 0.01, 0.7))
    (case,) = compare_results(before, after).cases
    assert (case.by, case.verdict) == ("fastest", "slower")


def test_warns_if_other_work_was_not_read() -> None:
    result = make_result(make_case(QUIET), other_work=())
    assert "could not be read" in compare_results(result, result).warnings[0]


def test_slower_machine_is_granted_its_slowness() -> None:
    before, after = make_case(QUIET), make_case(scaled(QUIET, 1.25))
    same_machine = compare_results(make_result(before), make_result(after))
    slower_machine = compare_results(
        make_result(before), make_result(after, probe_ms=(1.3, 1.25, 1.4))
    )
    assert same_machine.cases[0].verdict == "slower"
    assert slower_machine.cases[0].verdict == "within noise"
    assert "0.80 times its earlier speed" in slower_machine.warnings[0]


def test_slowdown_beyond_that_of_the_machine_is_caught() -> None:
    comparison = compare_results(
        make_result(make_case(QUIET)),
        make_result(make_case(scaled(QUIET, 1.6)), probe_ms=(1.25, 1.25, 1.25)),
    )
    assert comparison.cases[0].verdict == "slower"


def test_threshold_is_the_callers() -> None:
    before, after = make_result(make_case(QUIET)), make_result(make_case(scaled(QUIET, 1.08)))
    assert compare_results(before, after, 0.05).cases[0].verdict == "slower"
    assert compare_results(before, after, 0.1).cases[0].verdict == "same"
    with pytest.raises(ConfigError, match="threshold=0"):
        compare_results(before, after, 0)


def test_cases_are_matched_by_key() -> None:
    before = make_result(make_case(QUIET, size=1), make_case(scaled(QUIET, 3), size=8))
    after = make_result(make_case(scaled(QUIET, 3), size=8), make_case(QUIET, size=32))
    comparison = compare_results(before, after)
    assert [case.verdict for case in comparison.cases] == ["same"]
    assert comparison.only_before[0].endswith("batch=1")
    assert comparison.only_after[0].endswith("batch=32")


def test_results_without_a_common_case_are_refused() -> None:
    before, after = make_result(make_case(QUIET, size=1)), make_result(make_case(QUIET, size=2))
    with pytest.raises(ConfigError, match="no case is in both"):
        compare_results(before, after)


def test_what_differs_besides_the_times_is_said() -> None:
    before = make_result(make_case(QUIET))
    after = before.model_copy(
        update={
            "machine": before.machine.model_copy(update={"cpu": "Imaginary 1"}),
            "subjects": (
                before.subjects[0].model_copy(update={"bundle_id": "ffff", "threads": 1}),
            ),
        }
    )
    text = "; ".join(compare_results(before, after).warnings)
    assert "cpu was Imaginary 9000, is Imaginary 1" in text
    assert "bundle 0123456789ab became ffff" in text
    assert "threads 2 became 1" in text


def test_comparison_as_json_has_every_field() -> None:
    result = make_result(make_case(QUIET))
    content = compare_results(result, result).to_dict()
    names = {field.name for field in dataclasses.fields(compare_results(result, result).cases[0])}
    assert set(content["cases"][0]) == names
