"""The global encoder at many spots: our linear-memory graph against the decomposed product."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.record import Timing
from exporters.to_onnx import write_onnx
from exporters.wrappers import graph_modules
from triplex_deploy.contract import graph_specs
from triplex_deploy.models import Checkpoint

_CHILD = """
import json, sys, time
import numpy as np
import onnxruntime as ort
path, spots, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.log_severity_level = 3
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
inputs = {
    "features": rng.standard_normal((spots, 512), dtype=np.float32),
    "apeg_index": rng.integers(-1, spots, (spots, 9)),
}


def status_kb(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


open("/proc/self/clear_refs", "w").write("5")  # forget the peak of loading
before = status_kb("VmRSS")
walls, cpus = [], []
for _ in range(repeats):
    wall, cpu = time.perf_counter(), time.process_time()
    session.run(None, inputs)
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
peak_mb = (status_kb("VmHWM") - before) / 1e3
print(json.dumps({"walls": walls, "cpu_s": min(cpus), "peak_mb": peak_mb}))
"""


def measure_global_encoder(
    checkpoint: Checkpoint, bundle: Path, folder: Path, quick: bool
) -> tuple[list[Timing], dict[str, float]]:
    """Time and memory beyond the loaded graph, each in a process of its own.

    Quick runs use 2,000 and 4,000 spots, and say so in the case's name; the ratios keep theirs.
    """
    many, most = (2_000, 4_000) if quick else (5_000, 20_000)
    plain = folder / "global_encoder_decomposed.onnx"
    modules = graph_modules(checkpoint.build_model(), checkpoint.tile_encoder.build())
    spec = graph_specs(checkpoint.config)["global_encoder"]
    write_onnx(modules["global_encoder"], spec, "tensorrt", {}, plain)
    ours = _run(bundle / "global_encoder.onnx", many, "linear memory", 2)
    decomposed = _run(plain, many, "decomposed", 1 if quick else 2)
    largest = _run(bundle / "global_encoder.onnx", most, "linear memory", 1)
    return [ours, decomposed, largest], {
        "global_5k_decomposed_over_ours": decomposed.best_s / ours.best_s,
        "global_20k_peak_mb": largest.peak_mb,
    }


def _run(path: Path, spots: int, kind: str, repeats: int) -> Timing:
    finished = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(spots), str(repeats)],
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(finished.stdout)
    return Timing(
        f"global encoder, {spots} spots, {kind}",
        "the one graph whose cost grows faster than the slide",
        measured["walls"],
        measured["cpu_s"],
        measured["peak_mb"],
    )
