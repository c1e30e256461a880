"""Whole-slide prediction against the published way: spots per second, in one run.

    python benchmarks/bench_predict.py --json benchmarks/results/predict.json

The published way is timed on some of the spots, since each costs the same, and its global encoder
on all of them; its time for the whole slide is the sum over spots and batches. Its predictions of
the timed spots are compared with ours.
"""

from __future__ import annotations

import argparse
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
from benchmarks.predicting.extrapolate import centers_of, time_published
from benchmarks.predicting.interrupted import measure_cache, measure_kills
from benchmarks.predicting.large import measure_large
from benchmarks.predicting.models import PAPER, SMALL, bundles_for, make_checkpoint
from benchmarks.predicting.published import Published
from benchmarks.predicting.shared import VISIUM_SPOTS, Place, measure_shared, visium_lattice
from benchmarks.record import Case, Timing, measure, report
from triplex_deploy import load_bundle, open_slide, predict_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.models import Checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots, read_spots
from triplex_deploy.system import peak_memory_mb

MPP = 0.688
KILLED_PX = 4032
"""Side of the slides whose prediction is killed: some seconds of work each."""
HER2ST = Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st"
ENCODERS = ("tile_encoder", "target_encoder", "neighbor_encoder", "global_encoder")


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
    bundles = bundles_for(checkpoint, scenes[0].slide_path, quick)
    timings: list[Timing] = []
    ratios: dict[str, float] = {}
    differences, shares, once = [], [], []
    for scene in scenes:
        ours: dict[str, Prediction] = {}
        for precision, bundle in bundles.items():
            timing, ours[precision] = time_ours(scene, precision, bundle)
            timings.append(timing)
        reference, difference = compare_published(
            scene, checkpoint, ours["fp32"], spots=2 if quick else 12
        )
        differences.append(difference)
        timings.append(reference)
        for timing in timings[-3:-1]:
            precision = timing.metadata["precision"]
            ratios[f"{scene.name}_{precision}_over_reference"] = reference.best_s / timing.best_s
        shares += [timing.metadata["non_encoder_cpu_share"] for timing in timings[-3:-1]]
        once += [timing.metadata["once_per_slide_cpu_share"] for timing in timings[-3:-1]]
    ratios["non_encoder_cpu_share"] = max(shares)
    ratios["once_per_slide_cpu_share"] = max(once)
    ratios["max_abs_difference_from_reference"] = max(differences)
    limits: dict[str, Any] = {
        "frozen_passes_saved": timings[0].metadata["tiles_without_sharing"]
        / timings[0].metadata["tiles_encoded"],
        "peak_mb": peak_memory_mb(),
    }
    slide, _, spots, mpp = _slide_and_spots(scenes[1], bundles["fp32"])
    array = Place(slide, spots, mpp)
    lattice = Place(scenes[0].slide_path, visium_lattice(20 if quick else VISIUM_SPOTS, MPP), MPP)
    measured = [
        (*measure_global_encoder(checkpoint, bundles["fp32"], folder, quick), {}),
        (*measure_cache(*_slide_and_spots(scenes[1], bundles["fp32"])), {}),
        measure_large(bundles, folder, quick),
        measure_shared(checkpoint, bundles, array, reference, lattice, folder, 2 if quick else 12),
    ]
    if not quick:
        killed, outcome = measure_kills(bundles["int8"], folder, MPP, kills=10, side_px=KILLED_PX)
        measured.append((killed, {}, outcome))
    for more_timings, more_ratios, more_limits in measured:
        timings += more_timings
        ratios |= more_ratios
        limits |= more_limits
    return timings, ratios, limits


def make_scenes(folder: Path, quick: bool) -> list[Scene]:
    """A contiguous grid over tissue, and her2st's jittered array or one like it."""
    grid = folder / "grid.tif"
    side = 1792 if quick else 8064
    synthesize_slide(grid, side, side, MPP, seed=1)
    shared = "contiguous tiles: neighbourhoods share them"
    alone = "a measured array: its tiles coincide nowhere, every spot costs 25"
    scenes = [Scene("grid", shared, grid, PredictOptions())]
    image = HER2ST / "ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    if quick or not image.exists():
        spots = _jittered(2 if quick else 14)
        return [*scenes, Scene("spots", alone, grid, PredictOptions(spots=spots))]
    spots = read_spots(HER2ST / "ST-spotfiles/C3_selection.tsv")
    options = PredictOptions(spots=spots, mpp=MPP)
    return [*scenes, Scene("spots", alone, _as_tiff(image, folder), options)]


def time_ours(scene: Scene, precision: str, bundle: Path) -> tuple[Timing, Prediction]:
    """Slide in, prediction out, opened bundle at hand; the first run also tunes the machine."""
    made: list[Prediction] = []
    with load_bundle(bundle).open(device="cpu") as model:

        def predict() -> None:
            made.append(predict_slide(scene.slide_path, model, scene.options))

        timing = measure(Case(f"{scene.name}, ours {precision}", scene.reason, predict, repeats=1))
    metadata = made[-1].run
    timing.metadata = {
        "precision": precision,
        **cpu_shares(metadata["cpu_s"], _writing_cpu_s(made[-1])),
        **{key: metadata[key] for key in ("spots", "tiles_encoded", "tiles_without_sharing")},
        **{key: metadata[key] for key in ("workers", "batch_size", "idle_s")},
        "spots_per_s": metadata["spots"] / timing.best_s,
        "stages_s": metadata["timings_s"],
        "stages_cpu_s": metadata["cpu_s"],
    }
    return timing, made[-1]


def cpu_shares(cpu_s: dict[str, float], writing_s: float) -> dict[str, float]:
    """CPU time outside the encoders' calls, as parts of all that a prediction took.

    On a CPU each call of a worker runs in its own thread alone, so that the thread's clock sees all
    of it and nothing else; the global encoder runs while no other thread does, by the process's
    clock. What a slide costs once, however few its spots, is a part of its own: loading the graphs,
    tissue, thumbnail, and writing, which compresses the pictures. The measurement of batch sizes,
    once per machine and bundle, is left out.
    """
    total = cpu_s["total"] - cpu_s["tuning"] + writing_s
    once = sum(cpu_s[stage] for stage in ("sessions", "spots", "thumbnail")) + writing_s
    encoders = sum(cpu_s[name] for name in ENCODERS)
    return {
        "non_encoder_cpu_share": (total - encoders - once) / total,
        "once_per_slide_cpu_share": once / total,
    }


def _writing_cpu_s(prediction: Prediction) -> float:
    import anndata  # noqa: F401 - loading it is no part of writing

    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        prediction.write_h5ad(Path(folder) / "prediction.h5ad")
        return time.process_time() - begin


def compare_published(
    scene: Scene, checkpoint: Checkpoint, ours: Prediction, spots: int
) -> tuple[Timing, float]:
    """The published way over the whole slide, and how far its expression is from ours."""
    way = Published(
        checkpoint.build_model(),
        checkpoint.tile_encoder.build(),
        scene.slide_path,
        ours.slide_size_wh,
    )
    features = way.encode_slide(centers_of(ours))  # also the warm-up
    chosen = np.linspace(0, ours.n_spots - 1, spots).astype(np.int64)
    name = f"{scene.name}, published way"
    timing, found = time_published(name, scene.reason, way, ours, features, chosen)
    return timing, float(np.abs(found - ours.expression[chosen]).max())


def _slide_and_spots(scene: Scene, bundle: Path) -> tuple[Path, Path, Spots, float]:
    """A scene's slide, a bundle, the scene's spots, and the slide's scale."""
    spots = scene.options.spots
    assert isinstance(spots, Spots)
    return scene.slide_path, bundle, spots, MPP


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
