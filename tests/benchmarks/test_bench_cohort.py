"""Test that the benchmark of many slides measures every step, on few slides."""

from pathlib import Path

from benchmarks import bench_cohort


def test_every_step_is_measured(tmp_path: Path) -> None:
    result = bench_cohort.run(tmp_path, n_slides=4, n_predicted=0)
    wanted = {f"{name}_ms_per_slide" for name in bench_cohort.STEPS}
    assert wanted <= set(result.ratios)
    assert len(result.cases) == 2 * len(bench_cohort.STEPS)
    assert result.limits["max_ms_per_slide"] == 3.0
