"""Graphs and whole slides over backends and precisions, with PyTorch eager as the measure.

    python benchmarks/bench_graphs.py --json benchmarks/results/GPU.json

On a GPU: ONNX Runtime CUDA, TensorRT fp32 to bf16, PyTorch eager fp32; batches of 1 to 512. On a
CPU: ONNX Runtime and PyTorch eager. Times are around the call and include copies to and from the
GPU. Accuracy is what each export measured and recorded in its bundle.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.predicting.extrapolate import time_published
from benchmarks.predicting.models import PAPER, SMALL, make_checkpoint
from benchmarks.predicting.published import Published
from benchmarks.record import Timing, report
from benchmarks.serving.roofline import Peak, peak_of
from benchmarks.serving.subjects import EAGER, Subject, export_bundles, open_subjects
from triplex_deploy import predict_slide
from triplex_deploy.contract import GraphSpec
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.exporters import parity
from triplex_deploy.exporters.cost import graph_cost
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.models import Checkpoint, write_checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.ort import cuda_device_count
from triplex_deploy.system import peak_memory_mb

logger = logging.getLogger(__name__)

MPP: Final = 0.688
BATCHES: Final = (1, 8, 32, 64, 128, 256, 512)
SPOTS: Final = (500, 5000, 20000)
WARM_UP: Final = 5
PUBLISHED: Final = "published way"
TIMED_SPOTS: Final = 12


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    batches: tuple[int, ...]
    spots: tuple[int, ...]
    seconds_per_case: float
    most_runs: int
    slide_px: int
    warm_up: int = WARM_UP


FULL: Final = Plan(BATCHES, SPOTS, 2.0, 1000, 33600)
QUICK: Final = Plan((1, 4), (50,), 0.2, 5, 1120, warm_up=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--quick", action="store_true", help="small model, few sizes, under 50 s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    arguments = parser.parse_args()
    has_gpu = cuda_device_count() > 0
    device = CPU if arguments.device == "cpu" or not has_gpu else Device("cuda")
    if arguments.device.startswith("cuda") and device == CPU:
        raise SystemExit("error: --device cuda: no CUDA driver or GPU; run `triplex-deploy doctor`")
    with tempfile.TemporaryDirectory() as folder:
        timings, ratios, limits = run(
            Path(folder), device, QUICK if arguments.quick else FULL, arguments.quick
        )
    report(timings, ratios, limits, arguments.json)


def run(
    folder: Path, device: Device, plan: Plan, quick: bool
) -> tuple[list[Timing], dict[str, float], dict[str, Any]]:
    """All cases of every subject; ratios are over PyTorch eager fp32."""
    checkpoint = make_checkpoint(SMALL if quick else PAPER, MPP)
    write_checkpoint(checkpoint, folder / "model.ckpt")
    profile = (f"batch=1:64:{max(plan.batches)}", f"spots=1:{plan.spots[0]}:{max(plan.spots)}")
    with _few_parity_cases(quick):
        bundles = export_bundles(folder / "model.ckpt", folder, device.kind == "cuda", profile)
    skipped: dict[str, str] = {}
    gpu = _gpu_name(device)
    peak = peak_of(gpu)
    with open_subjects(bundles, checkpoint, device, skipped) as subjects:
        graphs = [timing for s in subjects for timing in time_graphs(s, plan, peak)]
        slide = folder / "slide.tif"
        synthesize_slide(slide, plan.slide_px, plan.slide_px, MPP, seed=1)
        slides, predictions = zip(*(time_slide(s, slide, plan) for s in subjects), strict=True)
    published = time_published_way(checkpoint, slide, predictions[0], device)
    limits = {"gpu": gpu, "skipped": skipped, "roofline": None if peak is None else vars(peak)}
    ratios = _ratios(graphs, slides, published)
    return [*graphs, *slides, published], ratios, limits


def time_graphs(subject: Subject, plan: Plan, peak: Peak | None) -> Iterator[Timing]:
    """Each graph at each size, after a warm-up."""
    for name, spec in subject.model.bundle.specs.items():
        for size in plan.batches if spec.kind != "per slide" else plan.spots:
            timing = _time_graph(subject, name, spec, size, plan)
            timing.metadata |= _work(subject, name, spec, size, timing, peak)
            yield timing


def _time_graph(subject: Subject, name: str, spec: GraphSpec, size: int, plan: Plan) -> Timing:
    inputs = graph_inputs(spec, size)
    session = subject.model.session(name)
    for _ in range(plan.warm_up):
        session.run(inputs)
    walls: list[float] = []
    cpu = time.process_time()
    begin = time.perf_counter()
    while len(walls) < 3 or (
        time.perf_counter() - begin < plan.seconds_per_case and len(walls) < plan.most_runs
    ):
        start = time.perf_counter()
        session.run(inputs)
        walls.append(time.perf_counter() - start)
    cpu_s = (time.process_time() - cpu) / len(walls)
    reason = f"{name}, one call of {size} {spec.batch_axis}, copies included"
    p50, p90, p99 = np.percentile(walls, (50, 90, 99)).tolist()
    metadata = {
        **{"subject": subject.name, "graph": name, "size": size, "warm_up": plan.warm_up},
        **{"p50_s": p50, "p90_s": p90, "p99_s": p99, "throughput_per_s": size / p50},
    }
    label = f"{subject.name}, {name}, {spec.batch_axis}={size}"
    return Timing(label, reason, walls, cpu_s, peak_memory_mb(), metadata)


def _work(
    subject: Subject, name: str, spec: GraphSpec, size: int, timing: Timing, peak: Peak | None
) -> dict[str, Any]:
    """Operations and traffic counted from the file, and how near the median comes to the roof."""
    path = subject.model.bundle.path / subject.model.entry(name).file
    cost = graph_cost(path, {spec.batch_axis: size})
    seconds = timing.metadata["p50_s"]
    metadata: dict[str, Any] = {
        "flops": cost.flops,
        "traffic_bytes": cost.traffic_bytes,
        "tflops_per_s": cost.flops / seconds / 1e12,
        "gbytes_per_s": cost.traffic_bytes / seconds / 1e9,
    }
    if peak is not None:
        metadata["fraction_of_roofline"] = peak.fraction(
            cost.flops, cost.traffic_bytes, seconds, subject.precision
        )
    return metadata


def time_slide(subject: Subject, slide: Path, plan: Plan) -> tuple[Timing, Prediction]:
    """A dense prediction, decoding on the CPU; and how long the device waited meanwhile."""
    size = max(plan.batches) if plan is QUICK else 64
    options = PredictOptions(all_tiles=True, batch_size=size)
    walls, waits, found = [], [], None
    for _ in range(1 if plan is QUICK else 3):
        start = time.perf_counter()
        found = predict_slide(slide, subject.model, options)
        walls.append(time.perf_counter() - start)
        timings = found.run["timings_s"]
        busy = sum(timings.get(graph, 0.0) for graph in subject.model.sessions)
        waits.append(max(0.0, 1 - busy / walls[-1]))
    assert found is not None
    metadata = {
        "subject": subject.name,
        "spots": found.n_spots,
        "tiles_encoded": found.run["tiles_encoded"],
        "spots_per_s": found.n_spots / min(walls),
        "share_of_time_no_graph_ran": statistics.median(waits),
        "stages_s": timings,
    }
    reason = f"slide to prediction, {found.n_spots} contiguous spots, decoding included"
    name = f"{subject.name}, end to end"
    return Timing(name, reason, walls, 0.0, peak_memory_mb(), metadata), found


def time_published_way(
    checkpoint: Checkpoint, slide: Path, prediction: Prediction, device: Device
) -> Timing:
    """The paper's way over the same slide on the same device, TF32 off as for PyTorch eager.

    The features of all spots, which it has on disk, are made up: they do not change its time, and
    ``bench_predict.py`` compares what it predicts.
    """
    model, encoder = checkpoint.build_model(), checkpoint.tile_encoder.build()
    way = Published(model, encoder, slide, prediction.slide_size_wh, str(device))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((prediction.n_spots, checkpoint.config.feature_dim), np.float32)
    chosen = rng.permutation(prediction.n_spots)[:TIMED_SPOTS]
    reason = "one read, 25 + 1 passes per spot, the global encoder per batch"
    return time_published(PUBLISHED, reason, way, prediction, features, chosen)[0]


def _ratios(
    graphs: Sequence[Timing], slides: Sequence[Timing], published: Timing
) -> dict[str, float]:
    """Of each subject over PyTorch eager: slides, and each graph at its best size.

    Slides also over the published way.
    """
    eager = {timing.metadata["subject"]: timing for timing in slides}[EAGER]
    ratios = {}
    for timing in slides:
        if timing is not eager:
            ratios[f"{timing.metadata['subject']}, end to end"] = eager.best_s / timing.best_s
        over = f"{timing.metadata['subject']}, end to end over the {PUBLISHED}"
        ratios[over] = published.best_s / timing.best_s
    best: dict[tuple[str, str], float] = {}
    for timing in graphs:
        key = (timing.metadata["subject"], timing.metadata["graph"])
        best[key] = max(best.get(key, 0.0), timing.metadata["throughput_per_s"])
    for (subject, graph), rate in best.items():
        if subject != EAGER:
            ratios[f"{subject}, {graph}"] = rate / best[EAGER, graph]
    return ratios


def _gpu_name(device: Device) -> str:
    if device.kind == "cpu":
        return "none"
    import torch

    return str(torch.cuda.get_device_name(device.index)) if torch.cuda.is_available() else "unknown"


@contextmanager
def _few_parity_cases(quick: bool) -> Iterator[None]:
    """A quick run proves parity at two small sizes."""
    sizes, side = dict(parity.SIZES), parity.GRID_SIDE
    try:
        if quick:
            parity.SIZES.update(dict.fromkeys(parity.SIZES, (1, 2)))
            parity.GRID_SIDE = 3  # type: ignore[misc]
        yield
    finally:
        parity.SIZES.update(sizes)
        parity.GRID_SIDE = side  # type: ignore[misc]


if __name__ == "__main__":
    main()
