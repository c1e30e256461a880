"""Compare the prediction of whole slides with the published way, and parts of it with PyTorch.

    python benchmarks/bench_predict.py --checkpoint demo-out/checkpoint.ckpt --json predict.json

The published way is timed on some of the spots, since each costs the same, and its global encoder
on all of them; its time for the whole slide is the sum over spots and batches. Its predictions of
the timed spots are compared with ours. Every int8 bundle passed its parity gate. A ratio that this
CPU or this model does not have is in ``ratios_absent``, with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.predicting.attention import measure_global_encoder
from benchmarks.predicting.encoding import BF16, measure_encoder, measure_prepare
from benchmarks.predicting.extrapolate import centers_of, time_published
from benchmarks.predicting.interrupted import measure_cache, measure_kills
from benchmarks.predicting.large import measure_large
from benchmarks.predicting.models import (
    INT8,
    PAPER,
    SMALL,
    Bundles,
    bundles_for,
    make_checkpoint,
)
from benchmarks.predicting.published import published_way
from benchmarks.predicting.shared import VISIUM_SPOTS, Place, measure_shared, visium_lattice
from triplex_deploy import load_bundle, open_slide, predict_slide
from triplex_deploy.bench.accuracy import read_accuracy
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import report, script_case, script_result, set_rows, time_call
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import BackendError
from triplex_deploy.models import Checkpoint, read_checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.runtime.backends import AUTO, ONNXRUNTIME, OPENVINO
from triplex_deploy.spots import Spots, read_spots

MPP: Final = 0.688
"""Microns per pixel of the tiles of a model with random weights, and of her2st's sections."""
KILLED_PX: Final = 4032
"""Side of the slides of the predictions that are killed: some seconds of work each."""
HER2ST: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st"
ENCODERS: Final = ("tile_encoder", "target_encoder", "neighbor_encoder", "global_encoder")
GRID: Final = "grid"
SPOTS: Final = "spots"
SHARES: Final = ("non_encoder_cpu_share", "once_per_slide_cpu_share")
DIFFERENCE: Final = "max_abs_difference"
"""Key of the metadata of the published way with its largest difference from our expression."""


@dataclass(frozen=True)
class Scene:
    """A slide and where to predict it."""

    name: str
    reason: str
    slide_path: Path
    options: PredictOptions


@dataclass(frozen=True)
class Way:
    """How our predictions run: a bundle, a backend and a precision."""

    name: str
    """Name in the ratios."""
    bundle: str
    """Precision of the bundle."""
    backend: str = AUTO
    """Backend to open it in."""
    precision: str | None = None
    """Precision of the run; None for that of the bundle."""
    scenes: tuple[str, ...] = (GRID, SPOTS)
    """Names of the scenes to predict."""


WAYS: Final = (
    Way(DEFAULT, DEFAULT),
    Way(INT8, INT8),
    Way(BF16, DEFAULT, OPENVINO.name, BF16),
    Way(f"{OPENVINO.name}_{INT8}", INT8, OPENVINO.name, scenes=(GRID,)),
)
"""fp32 comes first: what it predicts is compared with the published way."""


@dataclass
class Measured:
    """All that was measured so far."""

    cases: list[Case] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a ratio is missing, by its name."""
    limits: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        cases: Sequence[Case],
        ratios: Mapping[str, float] | None = None,
        absent: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """Add what a part of the benchmark returned."""
        self.cases += cases
        self.ratios |= ratios or {}
        self.absent |= absent or {}
        self.limits |= limits or {}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--quick", action="store_true", help="smaller cases, some minutes")
    parser.add_argument(
        "--checkpoint", type=Path, help="a trained TRIPLEX; without it, random weights"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), arguments.quick, arguments.checkpoint)
    result = script_result(found.cases, found.ratios, found.limits, found.absent)
    report(result, arguments.json)


def run(folder: Path, quick: bool, trained: Path | None = None) -> Measured:
    """Measure all cases; ratios are by the least wall seconds of each."""
    if trained is None:
        checkpoint = make_checkpoint(SMALL if quick else PAPER, MPP)
    else:
        checkpoint = read_checkpoint(trained)
    mpp = checkpoint.tile_mpp
    scenes = make_scenes(folder, quick, mpp)
    bundles = bundles_for(checkpoint, scenes[0].slide_path, quick)
    found, timed_spots = Measured(), 2 if quick else 12
    found.limits["weights"] = checkpoint.provenance.get("note", "random") if trained else "random"
    found.limits["bundles"] = {name: describe_bundle(path) for name, path in bundles.paths.items()}
    for scene in scenes:
        add_scene(found, scene, checkpoint, bundles, timed_spots)
    found.ratios["max_abs_difference_from_reference"] = max(
        case.work.metadata[DIFFERENCE] for case in found.cases if DIFFERENCE in case.work.metadata
    )
    exact = bundles.paths[DEFAULT]
    found.add(*measure_global_encoder(checkpoint, exact, folder, quick))
    array = scenes[1]
    assert isinstance(array.options.spots, Spots)
    found.add(*measure_cache(array.slide_path, exact, array.options.spots, mpp))
    cases, ratios, limits = measure_large(bundles.paths, folder, quick)
    found.add(cases, ratios, limits=limits)
    lattice = visium_lattice(20 if quick else VISIUM_SPOTS, mpp)
    cases, ratios, limits = measure_shared(
        checkpoint,
        bundles.paths,
        Place(array.slide_path, array.options.spots, mpp),
        next(case for case in found.cases if case.name == published_name(array)),
        Place(scenes[0].slide_path, lattice, mpp),
        folder,
        timed_spots,
    )
    found.add(cases, ratios, limits=limits)
    found.add(*measure_prepare(checkpoint, array.slide_path, array.options.spots, mpp, folder))
    tiles = sample_tiles(scenes[0].slide_path, mpp, 8 if quick else 64)
    found.add(*measure_encoder(checkpoint, exact, tiles))
    if not quick:
        killed = bundles.paths.get(INT8, exact)
        cases, outcome = measure_kills(killed, folder, mpp, kills=10, side_px=KILLED_PX)
        found.add(cases, limits=outcome)
    return found


def describe_bundle(path: Path) -> dict[str, Any]:
    """Return whether a bundle passed its gate, and its least cosine and correlations."""
    accuracy, absent = read_accuracy(path, ONNXRUNTIME.target)
    return {"absent": absent} if accuracy is None else accuracy.model_dump()


def add_scene(
    found: Measured, scene: Scene, checkpoint: Checkpoint, bundles: Bundles, spots: int
) -> None:
    """Predict a scene in every way that this machine has, and the published way."""
    ours: dict[str, Case] = {}
    exact = None
    for way in WAYS:
        name = f"{scene.name}_{way.name}_over_reference"
        if scene.name not in way.scenes:
            continue
        if way.bundle in bundles.absent:
            found.absent[name] = bundles.absent[way.bundle]
            continue
        try:
            ours[name], prediction = time_ours(scene, way, bundles.paths[way.bundle])
        except BackendError as error:
            found.absent[name] = str(error)
            continue
        exact = exact or prediction
    assert exact is not None  # fp32 runs everywhere
    reference = compare_published(scene, checkpoint, exact, spots)
    found.add([*ours.values(), reference])
    for name, case in ours.items():
        found.ratios[name] = reference.best_s / case.best_s
    for share in SHARES:
        values = [
            case.work.metadata[share] for case in ours.values() if share in case.work.metadata
        ]
        if values:
            found.ratios[share] = max([*values, found.ratios.get(share, 0.0)])
        elif share not in found.ratios:
            found.absent[share] = "no backend with calls in threads of their own was used"
    first = next(iter(ours.values())).work.metadata
    found.limits.setdefault(
        "frozen_passes_saved", first["tiles_without_sharing"] / first["tiles_encoded"]
    )


def make_scenes(folder: Path, quick: bool, mpp: float) -> list[Scene]:
    """Return a contiguous grid over tissue, and her2st's measured array or a similar array.

    Args:
        folder: Receives the slides.
        quick: Whether to make small slides.
        mpp: Microns per pixel of the model's tiles; no slide is resampled.
    """
    grid = folder / "grid.tif"
    side = 2240 if quick else 8064
    synthesize_slide(grid, side, side, mpp, seed=1)
    shared = "contiguous tiles: neighborhoods share them"
    alone = "a measured array: no two tiles are the same, so every spot costs 25"
    scenes = [Scene(GRID, shared, grid, PredictOptions())]
    image = HER2ST / "ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    if quick or not image.exists():
        spots = _jittered(2 if quick else 14)
        return [*scenes, Scene(SPOTS, alone, grid, PredictOptions(spots=spots))]
    measured = read_spots(HER2ST / "ST-spotfiles/C3_selection.tsv")
    spots = replace(measured, array=None)  # a model of other microns per pixel runs on them as well
    options = PredictOptions(spots=spots, mpp=mpp)
    return [*scenes, Scene(SPOTS, alone, _as_tiff(image, folder), options)]


def time_ours(scene: Scene, way: Way, bundle: Path) -> tuple[Case, Prediction]:
    """Predict a slide with an opened bundle.

    Raises:
        BackendError: If this machine does not have the backend or the precision.
    """
    case = script_case(f"{scene.name}, ours {way.name}", scene.reason, unit="spots")
    with load_bundle(bundle).open("cpu", way.backend, precision=way.precision) as model:
        made = time_call(case, lambda: predict_slide(scene.slide_path, model, scene.options))
        in_caller = model.backend == ONNXRUNTIME.name
    set_rows(case, made.n_spots)
    run = made.run
    copied = ("spots", "tiles_encoded", "tiles_without_sharing", "workers", "batch_size", "idle_s")
    case.work.metadata |= {
        "backend": model.backend,
        "precision": model.precision,
        **(cpu_shares(run["cpu_s"], _writing_cpu_s(made)) if in_caller else {}),
        **{key: run[key] for key in copied},
        "spots_per_s": made.n_spots / case.best_s,
        "cpu_ms_per_spot": 1e3 * case.cpu_s / made.n_spots,
        "stages_s": run["timings_s"],
        "stages_cpu_s": run["cpu_s"],
    }
    return case, made


def cpu_shares(cpu_s: dict[str, float], writing_s: float) -> dict[str, float]:
    """Return the CPU time outside the encoders' calls, as parts of the whole.

    In ONNX Runtime a call runs in the thread of its worker, so the clock of that thread has its
    time. The global encoder runs while no other thread does, by the clock of the process. What a
    slide costs once, with any number of spots, is a part of its own: loading the graphs, tissue,
    thumbnail, and writing, which compresses the pictures. The measurement of batch sizes, once per
    machine and bundle, is left out.
    """
    total = cpu_s["total"] - cpu_s["tuning"] + writing_s
    once = sum(cpu_s[stage] for stage in ("sessions", "spots", "thumbnail")) + writing_s
    encoders = sum(cpu_s[name] for name in ENCODERS)
    return {
        "non_encoder_cpu_share": (total - encoders - once) / total,
        "once_per_slide_cpu_share": once / total,
    }


def published_name(scene: Scene) -> str:
    """Return the name of the case that times the published way in a scene."""
    return f"{scene.name}, published way"


def _writing_cpu_s(prediction: Prediction) -> float:
    import anndata  # noqa: F401 - the time of loading it does not count

    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        prediction.write_h5ad(Path(folder) / "prediction.h5ad")
        return time.process_time() - begin


def compare_published(scene: Scene, checkpoint: Checkpoint, ours: Prediction, spots: int) -> Case:
    """Time the published way over the whole slide, and compare its expression with ours."""
    way = published_way(checkpoint, scene.slide_path, ours.slide_size_wh)
    features = way.encode_slide(centers_of(ours))  # also the warm-up
    chosen = np.linspace(0, ours.n_spots - 1, spots).astype(np.int64)
    name = published_name(scene)
    case, found = time_published(name, scene.reason, way, ours, features, chosen)
    case.work.metadata[DIFFERENCE] = float(np.abs(found - ours.expression[chosen]).max())
    return case


def _jittered(count: int) -> Spots:
    """Return a count x count array of 291 px pitch, each spot moved by up to 15 px."""
    rng = np.random.default_rng(2)
    row, column = (axis.ravel() for axis in np.mgrid[:count, :count])
    center_xy = 600 + 291.0 * np.stack([column, row], axis=1) + rng.uniform(-15, 15, (count**2, 2))
    return Spots(center_xy, np.stack([row, column], axis=1).astype(np.int64), "file", 145.0)


def _as_tiff(image: Path, folder: Path) -> Path:
    """Write the photograph as a tiled TIFF, which openslide-python can read in regions."""
    path = folder / "spots.tif"
    with open_slide(image) as slide:
        pixels = slide.read(0, 0, 0, *slide.level_sizes[0])
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", bigtiff=False
    )
    return path


if __name__ == "__main__":
    main()
