"""Measure what shared neighborhoods save on a measured array and on a Visium lattice.

The graphs are those of the exact bundle; only the manifest says where neighbor tiles are taken. So
the time is what a model trained so would need, and the expression is not compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.predicting.extrapolate import time_published
from benchmarks.predicting.published import published_way
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import script_case, time_call
from triplex_deploy.bundle import MANIFEST, read_bundle
from triplex_deploy.contract import Neighborhood
from triplex_deploy.contract.neighborhood import SHARED
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.models import Checkpoint
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots
from triplex_deploy.tiles import plan_tiles

STRIDE: Final = 224
VISIUM_SPOTS: Final = 2_000
PITCH_UM: Final = 100.0
MARGIN_PX: Final = 600
"""Distance of the lattice from the slide's border: no neighbor is masked."""


@dataclass(frozen=True)
class Place:
    """A slide, its spots and the scale of both."""

    slide_path: Path
    spots: Spots
    mpp: float


def measure_shared(
    checkpoint: Checkpoint,
    bundles: Mapping[str, Path],
    array: Place,
    array_reference: Case,
    lattice: Place,
    folder: Path,
    timed_spots: int,
) -> tuple[list[Case], dict[str, float], dict[str, Any]]:
    """Predict the spots of ``array`` and ``lattice`` with shared neighborhoods.

    Args:
        checkpoint: The model, for the published way.
        bundles: Exact bundles of the model by precision.
        array: A measured array.
        array_reference: The published way on it.
        lattice: A slide with a Visium lattice.
        folder: Receives the bundles.
        timed_spots: Spots of the lattice that the published way is timed on; each costs the same.

    Returns:
        Cases; ratios of the published way over ours, by wall seconds; tiles that both places need
        exact and shared.
    """
    cases: list[Case] = []
    ratios: dict[str, float] = {}
    limits: dict[str, Any] = {}
    references = {"spots": array_reference}
    for name, place in (("spots", array), ("visium", lattice)):
        for precision, exact in bundles.items():
            bundle = shared_bundle(exact, folder / f"shared-{precision}")
            case, made = _predict(name, precision, bundle, place)
            cases.append(case)
            if name not in references:
                references[name] = _published(name, checkpoint, place, made, timed_spots)
                cases.append(references[name])
            suffix = "" if precision == DEFAULT else f"_{precision}"
            ratio = references[name].best_s / case.best_s
            ratios[f"{name}_shared{suffix}_over_reference"] = ratio
        limits[f"{name}_shared_tiles"] = made.run["tiles_encoded"]
        limits[f"{name}_exact_tiles"] = case.work.metadata["exact_tiles"]
    return cases, ratios, limits


def visium_lattice(count: int, mpp: float) -> Spots:
    """Return ``count`` spots of a hexagonal lattice of 100 um, as square as it can be."""
    columns = max(1, round((count * 3**0.5 / 2) ** 0.5))
    row, place = np.divmod(np.arange(count), columns)
    column = 2 * place + row % 2
    step_px = np.array([PITCH_UM / 2, PITCH_UM * 3**0.5 / 2]) / mpp
    grid_rc = np.stack([row, column], axis=1).astype(np.int64)
    return Spots(MARGIN_PX + grid_rc[:, ::-1] * step_px, grid_rc, "file", 55 / mpp)


def shared_bundle(exact: Path, out: Path) -> Path:
    """Copy a bundle, with a shared neighborhood in its manifest."""
    if out.exists():
        return out
    shutil.copytree(exact, out)
    manifest = read_bundle(exact).manifest
    config = {**manifest.config, **Neighborhood(SHARED, STRIDE).recorded()}
    altered = manifest.model_copy(update={"config": config})
    (out / MANIFEST).write_text(altered.sealed().to_json(), encoding="utf-8")
    return out


def _predict(name: str, precision: str, bundle: Path, place: Place) -> tuple[Case, Prediction]:
    """Time the prediction of a slide with an open bundle, after a prediction of a few spots."""
    options = PredictOptions(spots=place.spots, mpp=place.mpp)
    reason = f"neighbor tiles from one grid of {STRIDE} pixels: spots share them"
    title = f"{name}, ours {precision}, shared neighborhoods"
    case = script_case(title, reason, len(place.spots.level0_xy), "spots")
    with load_bundle(bundle).open(device="cpu") as model:
        predict_slide(place.slide_path, model, replace(options, spots=_first(place.spots, 4)))
        made = time_call(case, lambda: predict_slide(place.slide_path, model, options))
    recorded = ("spots", "tiles_encoded", "workers", "batch_size", "neighborhood_stride_px")
    case.work.metadata |= {
        "precision": precision,
        **{key: made.run[key] for key in recorded},
        "exact_tiles": _exact_tiles(place, made),
        "spots_per_s": made.n_spots / case.best_s,
        "cpu_ms_per_spot": 1e3 * case.cpu_s / made.n_spots,
        "stages_cpu_s": made.run["cpu_s"],
    }
    return case, made


def _exact_tiles(place: Place, made: Prediction) -> int:
    """Return the number of tiles that exact neighborhoods of these spots need."""
    centers = np.floor(place.spots.level0_xy + 1e-6).astype(np.int64)
    return len(plan_tiles(centers, made.slide_size_wh).origins_xy)


def _published(
    name: str, checkpoint: Checkpoint, place: Place, made: Prediction, timed_spots: int
) -> Case:
    """Time the published way; its global features lie on disk, and here they are zeros."""
    way = published_way(checkpoint, place.slide_path, made.slide_size_wh)
    features = np.zeros((made.n_spots, checkpoint.config.feature_dim), np.float32)
    chosen = np.linspace(0, made.n_spots - 1, timed_spots).astype(np.int64)
    title = f"{name}, published way"
    return time_published(title, "every spot costs 25 encodings", way, made, features, chosen)[0]


def _first(spots: Spots, count: int) -> Spots:
    return replace(
        spots, level0_xy=spots.level0_xy[:count], grid_rc=spots.grid_rc[:count], barcodes=()
    )
