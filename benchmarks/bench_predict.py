"""Whole-slide prediction against the published way: spots per second, in one run.

    python benchmarks/bench_predict.py --json benchmarks/results/predict.json

The published way is timed on some of the spots, since each costs the same, and its global encoder
on all of them; its time for the whole slide is the sum over spots and batches. Its predictions of
the timed spots are compared with ours.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.predicting.attention import measure_global_encoder
from benchmarks.predicting.models import (
    PAPER,
    SMALL,
    make_bundles,
    make_bundles_quickly,
    make_checkpoint,
)
from benchmarks.predicting.published import BATCH, Published
from benchmarks.record import Case, Timing, measure, report
from exporters.inputs import tiles
from triplex_deploy import load_bundle, open_slide, predict_slide
from triplex_deploy.contract import TILE_PX
from triplex_deploy.demo.slide import synthesise_slide
from triplex_deploy.models import Checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.facts import peak_memory_mb
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots, read_spots

MPP = 0.688
HER2ST = Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st"
ENCODERS = ("tile_encoder", "target_encoder")


@dataclass(frozen=True)
class Scene:
    """A slide and where to predict it."""

    name: str
    reason: str
    slide_path: Path
    options: PredictOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--quick", action="store_true", help="smaller cases, under 50 s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timings, ratios, limits = run(Path(folder), arguments.quick)
    report(timings, ratios, limits, arguments.json)


def run(folder: Path, quick: bool) -> tuple[list[Timing], dict[str, float], dict[str, Any]]:
    """All cases; ratios are by the least wall seconds of each."""
    scenes = make_scenes(folder, quick)
    checkpoint = make_checkpoint(SMALL if quick else PAPER, MPP)
    calibration = sample_tiles(scenes[0].slide_path, MPP, 16 if quick else 128, MPP)
    make = make_bundles_quickly if quick else make_bundles
    bundles = make(checkpoint, calibration, folder)
    timings: list[Timing] = []
    ratios: dict[str, float] = {}
    differences, shares = [], []
    for scene in scenes:
        ours: dict[str, Prediction] = {}
        for precision, bundle in bundles.items():
            timing, ours[precision] = time_ours(scene, precision, bundle)
            timings.append(timing)
        reference, difference = time_published(
            scene, checkpoint, ours["fp32"], spots=3 if quick else 12
        )
        differences.append(difference)
        timings.append(reference)
        for timing in timings[-3:-1]:
            precision = timing.facts["precision"]
            ratios[f"{scene.name}_{precision}_over_reference"] = reference.best_s / timing.best_s
        shares.append(timings[-3].facts["non_encoder_cpu_share"])
    ratios["non_encoder_cpu_share"] = max(shares)
    ratios["max_abs_difference_from_reference"] = max(differences)
    more_timings, more_ratios = measure_global_encoder(checkpoint, bundles["fp32"], quick)
    limits = {
        "frozen_passes_saved": timings[0].facts["tiles_without_sharing"]
        / timings[0].facts["tiles_encoded"],
        "peak_mb": peak_memory_mb(),
    }
    return timings + more_timings, ratios | more_ratios, limits


def make_scenes(folder: Path, quick: bool) -> list[Scene]:
    """A contiguous grid over tissue, and her2st's jittered array or one like it."""
    grid = folder / "grid.tif"
    side = 1792 if quick else 8064
    synthesise_slide(grid, side, side, MPP, seed=1)
    shared = "contiguous tiles: neighbourhoods share them"
    alone = "a measured array: its tiles coincide nowhere, every spot costs 25"
    scenes = [Scene("grid", shared, grid, PredictOptions())]
    image = HER2ST / "ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    if quick or not image.exists():
        spots = _jittered(3 if quick else 14)
        return [*scenes, Scene("spots", alone, grid, PredictOptions(spots=spots))]
    spots = read_spots(HER2ST / "ST-spotfiles/C3_selection.tsv")
    options = PredictOptions(spots=spots, mpp=MPP)
    return [*scenes, Scene("spots", alone, _as_tiff(image, folder), options)]


def time_ours(scene: Scene, precision: str, bundle: Path) -> tuple[Timing, Prediction]:
    """Slide in, prediction out, opened bundle at hand."""
    made: list[Prediction] = []
    cpu = {"total": 0.0}
    with load_bundle(bundle).open(device="cpu") as model:

        def predict() -> None:
            begin = time.process_time()
            made.append(predict_slide(scene.slide_path, model, scene.options))
            cpu["total"] = time.process_time() - begin

        timing = measure(Case(f"{scene.name}, ours {precision}", scene.reason, predict, repeats=1))
        cpu["encoders"] = _encoder_cpu_s(model, made[-1])
    facts = made[-1].run
    timing.facts = {
        "precision": precision,
        "non_encoder_cpu_share": 1 - cpu["encoders"] / cpu["total"],
        **{key: facts[key] for key in ("spots", "tiles_encoded", "tiles_without_sharing")},
        "spots_per_s": facts["spots"] / timing.best_s,
        "stages_s": facts["timings_s"],
    }
    return timing, made[-1]


def time_published(
    scene: Scene, checkpoint: Checkpoint, ours: Prediction, spots: int
) -> tuple[Timing, float]:
    """The published way over the whole slide, from some spots and one batch; and how far apart."""
    way = Published(
        checkpoint.build_model(),
        checkpoint.tile_encoder.build(),
        scene.slide_path,
        ours.slide_size_wh,
    )
    center_xy = np.floor(ours.level0_xy + 1e-6).astype(np.int64)
    features = way.encode_slide(center_xy)  # also the warm-up
    chosen = np.linspace(0, ours.n_spots - 1, spots).astype(int)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    encoded = way.encode_spots(center_xy[chosen])
    per_spot = (time.perf_counter() - begin) / spots
    cpu_per_spot = (time.process_time() - begin_cpu) / spots
    begin = time.perf_counter()
    found = way.predict_batch(chosen, features, ours.grid_rc, encoded)
    per_batch = time.perf_counter() - begin
    whole = ours.n_spots * per_spot + math.ceil(ours.n_spots / BATCH) * per_batch
    timing = Timing(
        f"{scene.name}, published way",
        scene.reason,
        [whole],
        ours.n_spots * cpu_per_spot,
        peak_memory_mb(),
        {"timed_spots": spots, "s_per_spot": per_spot, "s_per_batch": per_batch},
    )
    return timing, float(np.abs(found - ours.expression[chosen]).max())


def _encoder_cpu_s(model: Model, prediction: Prediction) -> float:
    """CPU seconds the two image encoders need for the tiles of ``prediction``, by a sample."""
    sample = tiles((32, TILE_PX, TILE_PX, 3), np.random.default_rng(0))
    needed = {
        "tile_encoder": prediction.run["tiles_encoded"],
        "target_encoder": prediction.n_spots,
    }
    total = 0.0
    for graph, count in needed.items():
        model.run(graph, {"tiles": sample})
        begin = time.process_time()
        model.run(graph, {"tiles": sample})
        total += (time.process_time() - begin) / len(sample) * count
    return total


def _jittered(count: int) -> Spots:
    """A count x count array of 291 px pitch, each spot off its place by up to 15 px."""
    rng = np.random.default_rng(2)
    row, column = (axis.ravel() for axis in np.mgrid[:count, :count])
    center_xy = 600 + 291.0 * np.stack([column, row], axis=1) + rng.uniform(-15, 15, (count**2, 2))
    return Spots(center_xy, np.stack([row, column], axis=1).astype(np.int64), "file", 145.0)


def _as_tiff(image: Path, folder: Path) -> Path:
    """The photograph as a tiled TIFF, which openslide-python can read region by region."""
    path = folder / "spots.tif"
    with open_slide(image) as slide:
        pixels = slide.read(0, 0, 0, *slide.level_sizes[0])
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", bigtiff=False
    )
    return path


if __name__ == "__main__":
    main()
