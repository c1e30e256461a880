"""The serving benchmark on the CPU, at sizes that take no time."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_graphs
from benchmarks.bench_graphs import Plan, time_graphs, time_published_way, time_slide
from benchmarks.record import report
from benchmarks.serving.roofline import PEAKS, Peak, peak_of
from benchmarks.serving.subjects import EAGER, Subject, eager_model
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.exporters.cost import graph_cost
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import read_checkpoint
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model

PLAN = Plan((2,), (6,), 0.01, 3, 672, warm_up=1)


def test_eager_computes_what_the_bundle_does(checkpoint_path: Path, model: Model) -> None:
    with ExitStack() as stack:
        eager = eager_model(model.bundle, read_checkpoint(checkpoint_path), CPU, stack)
        for name, spec in model.bundle.specs.items():
            inputs = graph_inputs(spec, 2)
            (found,) = eager.run(name, inputs).values()
            (wanted,) = model.run(name, inputs).values()
            np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_cases_and_ratios_follow_the_schema(
    checkpoint_path: Path, model: Model, tmp_path: Path
) -> None:
    synthesize_slide(tmp_path / "slide.tif", PLAN.slide_px, PLAN.slide_px, 0.5, seed=1)
    peak = Peak({"fp32": 1.0}, 0.1)
    with ExitStack() as stack:
        eager = eager_model(model.bundle, read_checkpoint(checkpoint_path), CPU, stack)
        subjects = [Subject(EAGER, "fp32", eager), Subject("onnxruntime fp32", "fp32", model)]
        graphs = [timing for s in subjects for timing in time_graphs(s, PLAN, peak)]
        timed = [time_slide(s, tmp_path / "slide.tif", PLAN) for s in subjects]
    slides = [timing for timing, _ in timed]
    checkpoint = read_checkpoint(checkpoint_path)
    published = time_published_way(checkpoint, tmp_path / "slide.tif", timed[0][1], CPU)
    ratios = bench_graphs._ratios(graphs, slides, published)
    report([*graphs, *slides, published], ratios, {"gpu": "none"}, tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["schema"] == 1
    over_published = "end to end over the published way"
    assert set(result["ratios"]) == {
        f"{EAGER}, {over_published}",
        *(f"onnxruntime fp32, {name}" for name in (*model.bundle.specs, "end to end")),
        f"onnxruntime fp32, {over_published}",
    }
    assert published.metadata["timed_spots"] == 9
    assert published.best_s == pytest.approx(
        9 * published.metadata["s_per_spot"] + published.metadata["s_per_batch"]
    )
    case = next(
        c for c in result["cases"] if c["name"] == "onnxruntime fp32, tile_encoder, batch=2"
    )
    assert case["p50_s"] <= case["p90_s"] <= case["p99_s"] <= case["wall_s"]["max"]
    assert case["throughput_per_s"] == pytest.approx(2 / case["p50_s"])
    assert case["flops"] == graph_cost(model.bundle.path / "tile_encoder.onnx", {"batch": 2}).flops
    assert case["fraction_of_roofline"] > 0
    whole = next(c for c in result["cases"] if c["name"] == f"{EAGER}, end to end")
    assert whole["spots"] == 9
    assert 0 <= whole["share_of_time_no_graph_ran"] < 1


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
