"""Test how scripts time their calls, and the result that they write."""

import time
from pathlib import Path

import pytest

from triplex_deploy.bench.compare import compare_results
from triplex_deploy.bench.read_result import read_result
from triplex_deploy.bench.result import Ceilings, Peak
from triplex_deploy.bench.script import (
    PEAK_MEMORY,
    add_round,
    report,
    script_case,
    script_result,
    set_rows,
    time_call,
)
from triplex_deploy.bench.summary import Counted


def test_a_call_is_a_round_and_its_result_comes_back() -> None:
    case = script_case("busy", "to see its time")
    begin, cpu = time.perf_counter(), time.process_time()
    assert time_call(case, lambda: sum(range(200_000))) == 199_999 * 100_000
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    (found,) = case.rounds
    assert 0 < case.best_s <= took
    assert 0 < case.cpu_s <= cpu
    assert found.elapsed_s == found.latencies_s[0] == case.best_s
    assert case.work.metadata[PEAK_MEMORY] > 1


def test_the_least_time_and_the_highest_memory_of_the_rounds_count() -> None:
    case = script_case("elsewhere", "in another process", rows=10, unit="spots")
    for wall_s, cpu_s, memory_mb in ((4.0, 3.0, 20.0), (2.0, 5.0, 30.0), (3.0, 6.0, 10.0)):
        add_round(case, wall_s, cpu_s, memory_mb)
    assert (case.best_s, case.cpu_s, case.work.metadata[PEAK_MEMORY]) == (2.0, 3.0, 30.0)


def test_result_has_cases_ratios_and_reasons_and_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = script_case("grid, ours", "the common case", unit="spots")
    add_round(case, 2.0, 3.0)
    add_round(case, 1.0, 3.5)
    set_rows(case, 60)
    case.work.metadata["stages_s"] = {"plan": 0.25}
    peak = Peak(flops_per_s=1e12, instructions="amx_int8", how="made up")
    result = script_result(
        [case],
        {"grid_over_reference": 14.5},
        {"weights": "random"},
        {"grid_bf16_over_reference": "this CPU does not multiply it in hardware"},
        {case.key: Counted(flops=10**9, traffic_bytes=10**6)},
        Ceilings(flops_per_s=1e11, bytes_per_s=1e10, how="made up", peaks={"int8": peak}),
    )
    path = tmp_path / "result.json"
    report(result, path)
    shown = capsys.readouterr().out
    assert "14.5" in shown
    assert "not measured: this CPU does not multiply it in hardware" in shown
    found = read_result(path)
    assert found == result
    (measured,) = found.cases
    assert measured.key == "grid, ours"
    assert measured.throughput_per_s == pytest.approx(120 / 3)
    assert measured.cpu_ms == pytest.approx(3000)
    assert measured.metadata == {"reason": "the common case", "stages_s": {"plan": 0.25}}
    assert measured.cost is not None
    assert found.ceilings is not None
    assert (found.ceilings.roof("int8"), found.ceilings.roof("fp32")) == (1e12, 1e11)
    assert compare_results(found, found).slower == []


def test_without_a_file_all_of_the_result_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    case = script_case("grid, ours", "the common case")
    add_round(case, 2.0, 3.0)
    report(script_result([case], {}, {}), None)
    assert '"key": "grid, ours"' in capsys.readouterr().out
