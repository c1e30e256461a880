"""Describe a finished prediction and its cost, ready for JSON."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.cautions import NOT_HE
from triplex_deploy.outputs.units import describe_units
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.encode import Encoded
from triplex_deploy.pipeline.familiar import Familiarity
from triplex_deploy.pipeline.needed import sees_neighbors
from triplex_deploy.pipeline.reliable import reliability_metadata
from triplex_deploy.reliability import GeneReliability
from triplex_deploy.runtime.model import Model
from triplex_deploy.spots import Spots
from triplex_deploy.system import PACKAGES, installed_versions, peak_memory_mb
from triplex_deploy.tiles.plan import TilePlan
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView
from triplex_deploy.version import __version__


@dataclass(frozen=True)
class RunCounts:
    """Counts of a finished prediction."""

    stats: StreamStats
    """Counts of the tile stream."""
    encoded: Encoded
    """The stores of tile outputs, with their counts."""
    regions: int
    """Number of regions that the global encoder ran on."""
    features: NDArray[np.float32] | None = None
    """(N, F): features of the tile at each spot, if they were asked for."""
    familiarity: Familiarity | None = None
    """How familiar the tissue is; None if the bundle cannot tell."""


def run_metadata(
    context: PredictionContext,
    slide_mpp: float,
    view: SlideView,
    spots: Spots,
    plan: TilePlan,
    counts: RunCounts,
    reliability: GeneReliability | None = None,
    objection: str | None = None,
) -> dict[str, Any]:
    """Return the metadata of a prediction: bundle, scale, counts, seconds per stage, versions.

    ``objection`` says why the slide is hardly H&E in brightfield, if something says so.
    """
    bundle = context.model.bundle
    return {
        "bundle_id": bundle.id,
        "bundle_note": str(bundle.manifest.provenance.get("note", "")),
        "label_transform": dict(bundle.manifest.label_transform),
        "units": describe_units(bundle.manifest.label_transform),
        "panel": list(bundle.manifest.genes),
        "device": str(context.model.device),
        "backend": context.model.backend,
        "precision": context.model.precision,
        **_choice(context.model),
        "slide_mpp": slide_mpp,
        "scanned_xy_px": [int(side) for side in view.slide.scanned_xy],
        "bundle_mpp": bundle.manifest.tile_mpp,
        "level0_px_per_tile_px": view.scale,
        "layout": spots.layout,
        "array_places": _array_places(spots),
        **_members(context.model),
        **reliability_metadata(bundle, reliability),
        **({} if counts.familiarity is None else counts.familiarity.metadata()),
        **({} if objection is None else {NOT_HE: objection}),
        **_neighborhood(context),
        "regions": counts.regions,
        **_counts(context, spots, plan, counts),
        **_costs(context, counts),
        "versions": {
            "triplex-deploy": __version__,
            "python": platform.python_version(),
            **installed_versions(PACKAGES),
        },
    }


def _array_places(spots: Spots) -> str:
    """Return where array coordinates are from: ``measured``, ``inferred`` or ``laid out``.

    Only those that came with the spots name the same spots in other files.
    """
    if spots.layout != "file":
        return "laid out"
    return "inferred" if "inferred" in spots.note else "measured"


def _neighborhood(context: PredictionContext) -> dict[str, Any]:
    """Return where neighbor tiles were taken; nothing for a model without neighbors."""
    if not sees_neighbors(context.specs.values()):
        return {}
    neighbors = context.model.bundle.config.neighbors
    stride = {"neighborhood_stride_px": neighbors.stride} if neighbors.is_shared else {}
    return {"neighborhood": neighbors.kind, **stride}


def _members(model: Model) -> dict[str, int]:
    """Return the number of members of an ensemble; nothing for a single model."""
    members = model.bundle.config.n_members
    return {} if members == 1 else {"members": members}


def _choice(model: Model) -> dict[str, Any]:
    """Return why the backend and the precision were chosen, and the measured rates."""
    if model.choice is None:
        return {}
    return {
        "float_type": model.choice.float_type,
        "backend_reason": model.choice.reason,
        "bf16_gain": model.choice.bf16_gain,
    }


def _counts(
    context: PredictionContext, spots: Spots, plan: TilePlan, counts: RunCounts
) -> dict[str, Any]:
    n_spots, n_tiles = len(spots.level0_xy), len(plan.origins_xy)
    needed = int(np.count_nonzero(plan.neighbor_mask))
    return {
        "spots": n_spots,
        "slide_tiles_decoded": counts.stats.segments_decoded,
        "slide_tiles_unreadable": len(counts.stats.bad_tiles),
        "tiles_encoded": counts.encoded.tiles_encoded,
        "tiles_from_cache": counts.encoded.tiles_from_cache,
        "tiles_without_sharing": needed,
        "sharing": round(needed / n_tiles, 2),
        "spots_per_s": round(n_spots / context.clock.seconds["total"], 2),
    }


def _costs(context: PredictionContext, counts: RunCounts) -> dict[str, Any]:
    """Return wall, CPU and idle seconds by stage, and memory."""
    stores = {name: output.store.place for name, output in counts.encoded.outputs.items()}
    return {
        "workers": context.setting.workers,
        "batch_size": context.setting.batch_size,
        "wall_s": context.wall.stages(),
        "timings_s": _rounded(context.clock.seconds),
        "cpu_s": _rounded(context.clock.cpu_seconds),
        "idle_s": {
            f"{stage} {thread}": round(seconds, 3)
            for stage, waits in context.waits.items()
            for thread, seconds in waits.items()
        },
        "kept_in": stores,
        "peak_memory_mb": peak_memory_mb(),
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(took, 3) for stage, took in seconds.items()}
