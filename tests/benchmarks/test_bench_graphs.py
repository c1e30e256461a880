"""Test the serving benchmark on the CPU, at small sizes."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_graphs
from benchmarks.bench_graphs import Plan, graph_cases, result_of, time_published_way, time_slide
from benchmarks.serving.roofline import FLOAT_PRECISIONS, PEAKS, Peak, peak_of, peak_of_cpu
from benchmarks.serving.subjects import EAGER, Subject, eager_model
from triplex_deploy.bench.machine import WallClock
from triplex_deploy.bench.measure import measure
from triplex_deploy.bench.read_result import read_result
from triplex_deploy.bench.result import Ceilings, Settings
from triplex_deploy.bench.result import Peak as CpuPeak
from triplex_deploy.bench.script import report
from triplex_deploy.bench.summary import Counted
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.exporters.cost import graph_cost
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import read_checkpoint
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model

SETTINGS = Settings(seconds=0.01, rounds=2, warmup_runs=1, max_runs=4, seed=0)
PLAN = Plan((2,), (6,), SETTINGS, 672, 1)
CEILINGS = Ceilings(
    flops_per_s=1e11,
    bytes_per_s=1e10,
    how="made up",
    peaks={"fp32": CpuPeak(flops_per_s=2e11, instructions="avx2", how="made up")},
)


def test_eager_computes_what_the_bundle_does(checkpoint_path: Path, model: Model) -> None:
    with ExitStack() as stack:
        eager = eager_model(model.bundle, read_checkpoint(checkpoint_path), CPU, stack)
        for name, spec in model.bundle.specs.items():
            inputs = graph_inputs(spec, 2)
            (found,) = eager.run(name, inputs).values()
            (wanted,) = model.run(name, inputs).values()
            np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.slow
def test_cases_and_ratios_are_in_the_record_of_bench(
    checkpoint_path: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize_slide(tmp_path / "slide.tif", PLAN.slide_px, PLAN.slide_px, 0.5, seed=1)
    monkeypatch.setattr(bench_graphs, "measure_ceilings", lambda clock: CEILINGS)
    checkpoint = read_checkpoint(checkpoint_path)
    with ExitStack() as stack:
        eager = eager_model(model.bundle, checkpoint, CPU, stack)
        subjects = [Subject(EAGER, "fp32", eager), Subject("onnxruntime fp32", "fp32", model)]
        graphs = graph_cases(subjects, PLAN)
        measure(graphs, PLAN.settings, WallClock(), Silent())
        timed = [time_slide(s, tmp_path / "slide.tif", PLAN) for s in subjects]
    slides = [case for case, _ in timed]
    published = time_published_way(checkpoint, tmp_path / "slide.tif", timed[0][1], CPU)
    file = model.bundle.path / "tile_encoder.onnx"
    cost = Counted(*graph_cost(file, {"batch": 2}))
    counted = {case.key: cost for case in graphs}
    result = result_of(graphs, counted, slides, published, subjects, CPU, {"tensorrt": "no GPU"})
    report(result, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result
    over_published = "end to end over the published way"
    assert set(result.ratios) == {
        f"{EAGER}, {over_published}",
        *(f"onnxruntime fp32, {name}" for name in (*model.bundle.specs, "end to end")),
        f"onnxruntime fp32, {over_published}",
    }
    assert result.limits == {"gpu": "none", "skipped": {"tensorrt": "no GPU"}}
    found = {case.key: case for case in result.cases}
    way = published.work.metadata
    assert way["timed_spots"] == 9
    assert published.best_s == pytest.approx(9 * way["s_per_spot"] + way["s_per_batch"])
    encoder = found["onnxruntime fp32 | tile_encoder | SingleStream | batch=2"]
    assert encoder.cost is not None
    assert encoder.cost.flops == cost.flops
    roof_s = max(cost.flops / 2e11, cost.traffic_bytes / 1e10)
    assert encoder.metadata["fraction_of_roofline"] == pytest.approx(
        roof_s / (1e-3 * encoder.latency_ms.p50)
    )
    whole = found[f"{EAGER}, end to end"]
    assert (whole.metadata["spots"], whole.unit) == (9, "spots")
    assert whole.throughput_per_s == pytest.approx(9 / (1e-3 * whole.latency_ms.mean))
    assert 0 <= float(str(whole.metadata["share_of_time_no_graph_ran"])) < 1


def test_data_sheets_have_the_float_precisions_of_the_table() -> None:
    assert FLOAT_PRECISIONS == ("fp32", "tf32", "fp16", "bf16")
    assert all(set(peak.tflops) == set(FLOAT_PRECISIONS) for peak in PEAKS.values())


def test_peak_of_a_cpu_is_what_was_measured_on_it() -> None:
    assert peak_of_cpu(CEILINGS) == Peak({"fp32": 0.2}, 0.01)


def test_roofline_is_the_slower_of_computing_and_moving() -> None:
    peak = Peak({"fp16": 100.0}, 2.0)
    assert peak.fraction(1e14, 1e9, 2.0, "fp16") == pytest.approx(0.5)
    assert peak.fraction(1e9, 4e12, 4.0, "fp16") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "key"),
    [("NVIDIA H100 80GB HBM3", "H100 80GB HBM3"), ("NVIDIA H200", "H200"), ("NVIDIA L4", "L4")],
)
def test_gpu_is_found_by_its_name(name: str, key: str) -> None:
    assert peak_of(name) is PEAKS[key]
    assert peak_of("Tesla K80") is None


def test_asking_for_a_gpu_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_graphs, "cuda_device_count", lambda: 0)
    monkeypatch.setattr("sys.argv", ["bench_graphs.py", "--device", "cuda:0"])
    with pytest.raises(SystemExit, match=r"run `triplex-deploy doctor`"):
        bench_graphs.main()
