"""What a prediction was and what it cost, ready for JSON."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from triplex_deploy import __version__
from triplex_deploy.pipeline.run import Run
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openslide-python", "openslide-bin")


def run_facts(
    run: Run,
    slide_mpp: float,
    view: SlideView,
    spots: Spots,
    plan: TilePlan,
    stats: StreamStats,
) -> dict[str, Any]:
    """Facts of a finished run: bundle, scale, counts, seconds per stage, versions."""
    n_spots, n_tiles = len(spots.level0_xy), len(plan.origins_xy)
    needed = int(np.count_nonzero(plan.neighbor_mask))
    bundle, seconds = run.model.bundle, run.clock.seconds
    return {
        "bundle_id": bundle.id,
        "bundle_note": str(bundle.manifest.provenance.get("note", "")),
        "label_transform": dict(bundle.manifest.label_transform),
        "device": str(run.model.device),
        "backend": run.model.backend,
        "precision": bundle.manifest.precision,
        "slide_mpp": slide_mpp,
        "bundle_mpp": bundle.manifest.tile_mpp,
        "level0_px_per_tile_px": view.scale,
        "layout": spots.layout,
        "spots": n_spots,
        "slide_tiles_decoded": stats.segments_decoded,
        "slide_tiles_unreadable": len(stats.bad_tiles),
        "tiles_encoded": n_tiles,
        "tiles_without_sharing": needed,
        "sharing": round(needed / n_tiles, 2),
        "spots_per_s": round(n_spots / seconds["total"], 2),
        "timings_s": {stage: round(took, 3) for stage, took in seconds.items()},
        "peak_memory_mb": peak_memory_mb(),
        "versions": {
            "triplex-deploy": __version__,
            "python": platform.python_version(),
            **installed_versions(PACKAGES),
        },
    }


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those of ``packages`` that are installed, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
