"""Compare backends and precisions with PyTorch eager, on graphs and on whole slides.

    python benchmarks/bench_graphs.py --json benchmarks/results/GPU.json

On a GPU these are ONNX Runtime CUDA, TensorRT fp32 to bf16 and PyTorch eager fp32, in batches of 1
to 512; on a CPU ONNX Runtime, OpenVINO in fp32 and bf16, and PyTorch eager. Times are around the
call and include copies to and from the GPU. Each export measures its accuracy and records it in its
bundle.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.predicting.extrapolate import time_published
from benchmarks.predicting.models import PAPER, SMALL, few_parity_cases, make_checkpoint
from benchmarks.predicting.published import published_way
from benchmarks.serving.roofline import peak_of, peak_of_cpu
from benchmarks.serving.subjects import EAGER, Subject, export_bundles, open_subjects
from triplex_deploy import predict_slide
from triplex_deploy.bench.machine import WallClock, measure_ceilings
from triplex_deploy.bench.measure import Case, measure
from triplex_deploy.bench.result import SINGLE_STREAM, BenchResult, Settings
from triplex_deploy.bench.script import report, script_case, script_result, set_rows, time_call
from triplex_deploy.bench.summary import Counted
from triplex_deploy.bench.work import GraphWork, copies_absent
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.exporters.cost import graph_cost
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import Checkpoint, write_checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.ort_load import cuda_device_count

logger = logging.getLogger(__name__)

MPP: Final = 0.688
BATCHES: Final = (1, 8, 32, 64, 128, 256, 512)
SPOTS: Final = (500, 5000, 20000)
PUBLISHED: Final = "published way"
TIMED_SPOTS: Final = 12


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    batches: tuple[int, ...]
    """Tiles or spots per call."""
    spots: tuple[int, ...]
    """Spots of a slide, for the graphs that run per slide."""
    settings: Settings
    """How often each graph is called."""
    slide_px: int
    """Side of the square slide."""
    predictions: int
    """Number of times that the slide is predicted."""


FULL: Final = Plan(
    BATCHES, SPOTS, Settings(seconds=2.0, rounds=3, warmup_runs=5, max_runs=1000, seed=0), 33600, 3
)
QUICK: Final = Plan(
    (1, 4), (50,), Settings(seconds=0.2, rounds=2, warmup_runs=1, max_runs=6, seed=0), 1120, 1
)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--quick", action="store_true", help="small model, few sizes, under 50 s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    arguments = parser.parse_args()
    has_gpu = cuda_device_count() > 0
    device = CPU if arguments.device == "cpu" or not has_gpu else Device("cuda")
    if arguments.device.startswith("cuda") and device == CPU:
        raise SystemExit("error: --device cuda: no CUDA driver or GPU; run `triplex-deploy doctor`")
    with tempfile.TemporaryDirectory() as folder:
        plan = QUICK if arguments.quick else FULL
        result = run(Path(folder), device, plan, arguments.quick)
    report(result, arguments.json)


def run(folder: Path, device: Device, plan: Plan, quick: bool) -> BenchResult:
    """Measure all cases of every subject; ratios are over PyTorch eager fp32."""
    checkpoint = make_checkpoint(SMALL if quick else PAPER, MPP)
    write_checkpoint(checkpoint, folder / "model.ckpt")
    profile = (f"batch=1:64:{max(plan.batches)}",)  # that of slides is as long as TensorRT allows
    with few_parity_cases() if quick else nullcontext():
        bundles = export_bundles(folder / "model.ckpt", folder, device.kind == "cuda", profile)
    skipped: dict[str, str] = {}
    with open_subjects(bundles, checkpoint, device, skipped) as subjects:
        cases = graph_cases(subjects, plan)
        measure(cases, plan.settings, WallClock(), Silent())
        counted = {case.key: _cost(case, subjects) for case in cases}
        slide = folder / "slide.tif"
        synthesize_slide(slide, plan.slide_px, plan.slide_px, MPP, seed=1)
        timed = [time_slide(subject, slide, plan) for subject in subjects]
    published = time_published_way(checkpoint, slide, timed[0][1], device)
    slides = [case for case, _ in timed]
    return result_of(cases, counted, slides, published, subjects, device, skipped)


def result_of(
    graphs: Sequence[Case],
    counted: Mapping[str, Counted],
    slides: Sequence[Case],
    published: Case,
    subjects: Sequence[Subject],
    device: Device,
    skipped: Mapping[str, str],
) -> BenchResult:
    """Return the result, with each graph's part of the roofline."""
    gpu = _gpu_name(device)
    ceilings = measure_ceilings(WallClock()) if device.kind == "cpu" else None
    peak = peak_of(gpu) if ceilings is None else peak_of_cpu(ceilings)
    precision_of = {subject.name: subject.precision for subject in subjects}
    for case in graphs:
        precision = precision_of[case.subject]
        if peak is not None and precision in peak.tflops:
            cost, seconds = counted[case.key], _median_s(case)
            case.work.metadata["fraction_of_roofline"] = peak.fraction(
                cost.flops, cost.traffic_bytes, seconds, precision
            )
    limits = {"gpu": gpu, "skipped": dict(skipped)}
    ratios = _ratios(graphs, slides, published)
    cases = [*graphs, *slides, published]
    return script_result(cases, ratios, limits, counted=counted, ceilings=ceilings)


def graph_cases(subjects: Sequence[Subject], plan: Plan) -> list[Case]:
    """Return each graph at each size; the subjects of a case follow each other."""
    clock = WallClock()
    cases = []
    for name, spec in subjects[0].model.bundle.specs.items():
        for size in plan.batches if spec.kind != "per slide" else plan.spots:
            inputs = graph_inputs(spec, size)
            for subject in subjects:
                session = subject.model.session(name)
                if session.longest is not None and size > session.longest:
                    continue
                absent = copies_absent(subject.model)
                work = GraphWork(session, size, inputs, clock, absent)
                cases.append(Case(subject.name, work, SINGLE_STREAM))
    return cases


def _cost(case: Case, subjects: Sequence[Subject]) -> Counted:
    """Return the operations and the traffic of a case, counted from the graph's file."""
    model = next(subject.model for subject in subjects if subject.name == case.subject)
    path = model.bundle.path / model.entry(case.work.graph).file
    return Counted(*graph_cost(path, {case.work.axis: case.work.size}))


def time_slide(subject: Subject, slide: Path, plan: Plan) -> tuple[Case, Prediction]:
    """Predict contiguous spots of a slide, decoded on the CPU, and how long no graph ran."""
    size = max(plan.batches) if plan.predictions == 1 else 64
    options = PredictOptions(all_tiles=True, batch_size=size)
    case = script_case(f"{subject.name}, end to end", "", unit="spots")
    waits, found = [], None
    for _ in range(plan.predictions):
        found = time_call(case, lambda: predict_slide(slide, subject.model, options))
        timings = found.run["timings_s"]
        busy = sum(timings.get(graph, 0.0) for graph in subject.model.sessions)
        waits.append(max(0.0, 1 - busy / case.rounds[-1].elapsed_s))
    assert found is not None
    set_rows(case, found.n_spots)
    case.work.metadata |= {
        "reason": f"slide to prediction, {found.n_spots} contiguous spots, decoding included",
        "subject": subject.name,
        "spots": found.n_spots,
        "tiles_encoded": found.run["tiles_encoded"],
        "spots_per_s": found.n_spots / case.best_s,
        "share_of_time_no_graph_ran": statistics.median(waits),
        "stages_s": found.run["timings_s"],
    }
    return case, found


def time_published_way(
    checkpoint: Checkpoint, slide: Path, prediction: Prediction, device: Device
) -> Case:
    """Time the paper's way over the same slide on the same device, without TF32.

    It has the features of all spots on disk. They are made up here, because they do not change its
    time; ``bench_predict.py`` compares what it predicts.
    """
    way = published_way(checkpoint, slide, prediction.slide_size_wh, str(device))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((prediction.n_spots, checkpoint.config.feature_dim), np.float32)
    chosen = rng.permutation(prediction.n_spots)[:TIMED_SPOTS]
    reason = "one read, 25 + 1 passes per spot, the global encoder per batch"
    return time_published(PUBLISHED, reason, way, prediction, features, chosen)[0]


def _ratios(graphs: Sequence[Case], slides: Sequence[Case], published: Case) -> dict[str, float]:
    """Return the speed of each subject over PyTorch eager: slides, and graphs at their best size.

    Slides are also compared with the published way.
    """
    whole = {str(case.work.metadata["subject"]): case for case in slides}
    ratios = {}
    for name, case in whole.items():
        if name != EAGER:
            ratios[f"{name}, end to end"] = whole[EAGER].best_s / case.best_s
        ratios[f"{name}, end to end over the {PUBLISHED}"] = published.best_s / case.best_s
    best: dict[tuple[str, str], float] = {}
    for case in graphs:
        key = (case.subject, case.work.graph)
        best[key] = max(best.get(key, 0.0), case.work.size / _median_s(case))
    for (subject, graph), rate in best.items():
        if subject != EAGER:
            ratios[f"{subject}, {graph}"] = rate / best[EAGER, graph]
    return ratios


def _median_s(case: Case) -> float:
    return statistics.median(second for found in case.rounds for second in found.latencies_s)


def _gpu_name(device: Device) -> str:
    if device.kind == "cpu":
        return "none"
    import torch

    return str(torch.cuda.get_device_name(device.index)) if torch.cuda.is_available() else "unknown"


if __name__ == "__main__":
    main()
