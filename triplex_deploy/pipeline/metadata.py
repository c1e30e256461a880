"""What a prediction was and what it cost, ready for JSON."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from triplex_deploy.spots import Spots
from triplex_deploy.system import PACKAGES, installed_versions, peak_memory_mb
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView
from triplex_deploy.version import __version__

if TYPE_CHECKING:
    from triplex_deploy.pipeline.context import Run
    from triplex_deploy.pipeline.encode import Encoded


@dataclass(frozen=True)
class Done:
    """What a finished run did, besides its timings."""

    stats: StreamStats
    encoded: Encoded
    regions: int


def run_facts(
    run: Run, slide_mpp: float, view: SlideView, spots: Spots, plan: TilePlan, done: Done
) -> dict[str, Any]:
    """Facts of a finished run: bundle, scale, counts, seconds per stage, versions."""
    bundle = run.model.bundle
    return {
        "bundle_id": bundle.id,
        "bundle_note": str(bundle.manifest.provenance.get("note", "")),
        "label_transform": dict(bundle.manifest.label_transform),
        "panel": list(bundle.manifest.genes),
        "device": str(run.model.device),
        "backend": run.model.backend,
        "precision": bundle.manifest.precision,
        "slide_mpp": slide_mpp,
        "bundle_mpp": bundle.manifest.tile_mpp,
        "level0_px_per_tile_px": view.scale,
        "layout": spots.layout,
        "regions": done.regions,
        **_counts(run, spots, plan, done),
        **_costs(run, done),
        "versions": {
            "triplex-deploy": __version__,
            "python": platform.python_version(),
            **installed_versions(PACKAGES),
        },
    }


def _counts(run: Run, spots: Spots, plan: TilePlan, done: Done) -> dict[str, Any]:
    n_spots, n_tiles = len(spots.level0_xy), len(plan.origins_xy)
    needed = int(np.count_nonzero(plan.neighbor_mask))
    return {
        "spots": n_spots,
        "slide_tiles_decoded": done.stats.segments_decoded,
        "slide_tiles_unreadable": len(done.stats.bad_tiles),
        "tiles_encoded": done.encoded.tiles_encoded,
        "tiles_from_cache": done.encoded.tiles_from_cache,
        "tiles_without_sharing": needed,
        "sharing": round(needed / n_tiles, 2),
        "spots_per_s": round(n_spots / run.clock.seconds["total"], 2),
    }


def _costs(run: Run, done: Done) -> dict[str, Any]:
    """Seconds by stage: of the wall, of the CPU, and idle by kind of thread; and memory."""
    stores = {name: output.store.in_memory for name, output in done.encoded.outputs.items()}
    return {
        "lanes": run.setting.lanes,
        "batch_size": run.setting.batch_size,
        "timings_s": _rounded(run.clock.seconds),
        "cpu_s": _rounded(run.clock.cpu_seconds),
        "idle_s": {
            f"{stage} {thread}": round(seconds, 3)
            for stage, waits in run.waits.items()
            for thread, seconds in waits.items()
        },
        "kept_in": {name: "memory" if held else "file" for name, held in stores.items()},
        "peak_memory_mb": peak_memory_mb(),
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(took, 3) for stage, took in seconds.items()}
