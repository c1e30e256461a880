"""Measure what a spot costs as a slide grows, and how much memory a run takes.

Each run has a process of its own, so that its peak memory is known. The process predicts a few
spots first, which are not counted, because what a process does once is no part of the cost of a
spot. With cheap encoders all but the two image encoders is real: reading, stores, the global
encoder and fusion.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from benchmarks.predicting.models import INT8
from benchmarks.tiling.mosaic import drawn_tissue
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import PEAK_MEMORY, add_round, script_case
from triplex_deploy.contract import TILE_PX
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.row_store import RESIDENT_BYTES
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays, Session
from triplex_deploy.spots import Spots

SEGMENT_PX = 256
OVERVIEW = 4
WARM_UP_SIDE = 3
BEYOND_BUDGET_MB = 1500
CHEAP = "cheap encoders"


def measure_large(
    bundles: Mapping[str, Path], folder: Path, quick: bool
) -> tuple[list[Case], dict[str, float], dict[str, Any]]:
    """Measure the cost per spot of slides of several sizes, and the memory of the largest slide.

    Args:
        bundles: Bundles by precision; the encoders of the int8 bundle are used if there is one.
        folder: Receives the slides.
        quick: Whether to predict few spots.
    """
    fastest = INT8 if INT8 in bundles else DEFAULT
    sides, largest, budget_gb = ((6, 10), 35, 0.15) if quick else ((22, 45, 141), 224, 2.0)
    cases = []
    for side in sides:
        slide = write_large_slide(folder / f"{side}.tif", side)
        cases.append(_run(slide, bundles[fastest], side, 4.0, encoders=fastest))
    costs = [case.work.metadata["cpu_s_per_spot"] for case in cases]
    slide = write_large_slide(folder / "largest.tif", largest)
    bounded = _run(slide, bundles[DEFAULT], largest, budget_gb, encoders=CHEAP)
    peak_mb = bounded.work.metadata[PEAK_MEMORY]
    bound = budget_gb * 1000 + BEYOND_BUDGET_MB
    limits = {
        "bounded_spots": largest**2,
        "bounded_peak_mb": peak_mb,
        "bounded_limit_mb": bound,
        "mapped_mb_resident": RESIDENT_BYTES / 1e6,
    }
    ratios = {
        "cost_per_spot_most_over_least": max(costs) / min(costs),
        "memory_limit_over_peak": bound / peak_mb,
    }
    return [*cases, bounded], ratios, limits


def write_large_slide(path: Path, tiles_per_side: int) -> Path:
    """Write a square slide of whole tiles, all of the same picture, with an overview.

    Every neighbor of a spot is a spot, so that each spot costs the same in a slide of any size.
    """
    side = tiles_per_side * TILE_PX
    picture = bytes(imagecodecs.jpeg8_encode(drawn_tissue(SEGMENT_PX, 5), 85, subsampling="420"))
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level_side in (side, side // OVERVIEW):
            count = math.ceil(level_side / SEGMENT_PX) ** 2
            writer.write(
                (picture for _ in range(count)),
                shape=(level_side, level_side, 3),
                dtype=np.uint8,
                tile=(SEGMENT_PX, SEGMENT_PX),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2),
                subfiletype=int(level_side != side),
                metadata=None,
            )
    return path


class CheapEncoder(Session):
    """Replaces an image encoder by numbers of the right shape, from the tile's first pixels."""

    def _run(self, inputs: Tensors) -> Arrays:
        tiles: Any = inputs["tiles"]
        (output,) = self.spec.outputs
        shape = tuple(axis for axis in output.axes if isinstance(axis, int))
        seed = tiles[:, 0, :16].reshape(len(tiles), -1).astype(np.float32) / 255
        values = np.resize(seed, (len(tiles), *shape))
        return {output.name: np.ascontiguousarray(values, np.float32)}

    def close(self) -> None:
        pass


def _run(slide: Path, bundle: Path, side: int, memory_gb: float, encoders: str) -> Case:
    """Predict ``side`` by ``side`` spots in a process of its own."""
    arguments = [str(slide), str(bundle), str(side), str(memory_gb)]
    command = [
        sys.executable,
        "-m",
        __name__,
        *arguments,
        *(["--cheap"] if encoders == CHEAP else []),
    ]
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    found = json.loads(finished.stdout)
    reason = "memory must not grow" if encoders == CHEAP else "the cost of a spot must not grow"
    case = script_case(f"{side**2} spots, {encoders}", reason, side**2, "spots")
    run = found["run"]
    add_round(case, found["wall_s"], run["cpu_s"]["total"], run["peak_memory_mb"])
    case.work.metadata |= {
        "cpu_s_per_spot": _cpu_per_spot(run),
        "global_encoder_s": run["timings_s"]["global_encoder"],
        "memory_gb": memory_gb,
        "kept_in": run["kept_in"],
        "stages_s": run["timings_s"],
    }
    return case


def _cpu_per_spot(run: dict[str, Any]) -> float:
    """Return CPU seconds without the global encoder, and without work per slide or machine."""
    cpu = run["cpu_s"]
    once = sum(cpu.get(stage, 0.0) for stage in ("sessions", "tuning", "thumbnail", "spots"))
    return float((cpu["total"] - cpu["global_encoder"] - once) / run["spots"])


def _spots(side: int) -> Spots:
    """Return a grid of ``side`` by ``side`` contiguous tiles."""
    grid_rc = np.stack(np.divmod(np.arange(side**2), side), axis=1).astype(np.int64)
    center_xy = (grid_rc[:, ::-1].astype(np.float64) + 0.5) * TILE_PX
    return Spots(center_xy, grid_rc, "file", float(TILE_PX))


def _with_cheap_encoders(model: Model) -> Model:
    sessions = {
        name: CheapEncoder(spec) if spec.kind == "per tile" else session
        for (name, session) in model.sessions.items()
        for spec in [session.spec]
    }
    return dataclasses.replace(model, sessions=sessions, backend="cheap")


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("side", type=int)
    parser.add_argument("memory_gb", type=float)
    parser.add_argument("--cheap", action="store_true")
    asked = parser.parse_args()
    with load_bundle(asked.bundle).open(device="cpu") as model:
        options = PredictOptions(
            spots=_spots(asked.side),
            mpp=model.bundle.manifest.tile_mpp,
            memory_gb=asked.memory_gb,
            batch_size=4,
        )
        used = _with_cheap_encoders(model) if asked.cheap else model
        predict_slide(asked.slide, used, dataclasses.replace(options, spots=_spots(WARM_UP_SIDE)))
        begin = time.perf_counter()
        prediction = predict_slide(asked.slide, used, options)
    print(json.dumps({"wall_s": time.perf_counter() - begin, "run": prediction.run}))


if __name__ == "__main__":
    _main()
