"""Compare our global encoder of linear memory with the decomposed product, at many spots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.predicting import slide_graph
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import PEAK_MEMORY, add_round, script_case
from triplex_deploy.contract import Config, graph_specs
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
LINEAR, DECOMPOSED = "linear memory", "decomposed"


def measure_global_encoder(
    checkpoint: Checkpoint, bundle: Path, folder: Path, quick: bool
) -> tuple[list[Case], dict[str, float]]:
    """Measure time, and memory beyond that of the loaded graph, each in a process of its own.

    Both graphs run in sessions as predictions open them. Quick runs use 2,000 and 4,000 spots; the
    names of the cases say so, those of the ratios do not.
    """
    many, most = (2_000, 4_000) if quick else (5_000, 20_000)
    plain = folder / "global_encoder_decomposed.onnx"
    modules = graph_modules(checkpoint.build_model(), checkpoint.tile_encoder.build())
    spec = graph_specs(checkpoint.config)["global_encoder"]
    write_onnx(modules["global_encoder"], spec, "tensorrt", {}, plain)
    linear, config = bundle / "global_encoder.onnx", checkpoint.config
    ours = _run(linear, config, many, LINEAR, 2)
    decomposed = _run(plain, config, many, DECOMPOSED, 1 if quick else 2)
    largest = _run(linear, config, most, LINEAR, 1)
    return [ours, decomposed, largest], {
        "global_5k_decomposed_over_ours": decomposed.best_s / ours.best_s,
        "global_5k_peak_mb": ours.work.metadata[PEAK_MEMORY],
        "global_20k_peak_mb": largest.work.metadata[PEAK_MEMORY],
    }


def _run(path: Path, config: Config, spots: int, kind: str, calls: int) -> Case:
    arguments = [str(path), json.dumps(config.to_dict()), str(spots), str(calls)]
    command = [sys.executable, "-m", slide_graph.__name__, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    measured = json.loads(finished.stdout)
    reason = "the only graph with a cost that grows faster than the slide"
    case = script_case(f"global encoder, {spots} spots, {kind}", reason, spots, "spots")
    for wall_s in measured["walls"]:
        add_round(case, wall_s, measured["cpu_s"], measured["peak_mb"])
    return case
