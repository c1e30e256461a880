"""``predict_slide``: one slide, one opened bundle, one gene-by-spot table."""

from __future__ import annotations

import logging
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import N_TARGET_TOKENS
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.encode import encode_tiles, own_tiles
from triplex_deploy.pipeline.fuse import encode_slide, fuse_spots
from triplex_deploy.pipeline.genes import gene_indices
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.progress import Progress, Silent
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.token_store import TokenStore
from triplex_deploy.runtime.model import Model
from triplex_deploy.slides import Slide, open_slide, resolve_mpp, thumbnail
from triplex_deploy.spots import (
    Spots,
    check_spots,
    grid_spots,
    read_spots,
    tissue_mask,
    visium_spots,
)
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.view import SlideView

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 2000


def predict_slide(
    slide_path: str | Path,
    model: Model,
    options: PredictOptions | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict the expression of every spot of one slide.

    Raises ``SlideError``, ``SpotsError`` or ``ConfigError`` for input that cannot be predicted,
    with the remedy in the message.
    """
    options = options or PredictOptions()
    run = Run(model, progress or Silent())
    _warn_of_the_bundle(model.bundle)
    manifest = model.bundle.manifest
    gene_index = gene_indices(options.genes, manifest.genes)
    with run.clock.stage("total"), open_slide(slide_path) as slide:
        slide_mpp = resolve_mpp(slide, options.mpp)
        view = SlideView.open(slide, slide_mpp, manifest.tile_mpp)
        with run.clock.stage("spots"):
            spots = place_spots(slide, slide_mpp, view, options)
        with run.clock.stage("plan"):
            plan = plan_tiles(view.centers(spots.level0_xy), view.size_wh)
        expression = _predict_plan(run, view, plan, spots, options)
        with run.clock.stage("thumbnail"):
            picture = thumbnail(slide, THUMBNAIL_PX)
    return Prediction(
        slide_name=Path(slide_path).stem,
        expression=np.ascontiguousarray(expression[:, gene_index]),
        genes=tuple(manifest.genes[i] for i in gene_index),
        level0_xy=spots.level0_xy,
        grid_rc=spots.grid_rc,
        slide_size_wh=slide.level_sizes[0],
        slide_mpp=slide_mpp,
        spot_diameter_px=spots.spot_diameter_px,
        thumbnail=picture,
        run=_facts(run, slide_mpp, view, spots, plan),
    )


def _predict_plan(
    run: Run, view: SlideView, plan: TilePlan, spots: Spots, options: PredictOptions
) -> NDArray[np.float32]:
    """Encode and fuse a planned slide; returns expression (N, G)."""
    own = own_tiles(plan)
    shape = (own.count, N_TARGET_TOKENS, run.model.bundle.config.embedding_dim)
    with TokenStore(shape, options.memory_gb * 1e9) as store:
        features = encode_tiles(run, view, plan, own, store, options.batch_size)
        global_tokens = encode_slide(run, plan, features, spots.grid_rc)
        return fuse_spots(run, plan, features, global_tokens, own, store)


def place_spots(slide: Slide, slide_mpp: float, view: SlideView, options: PredictOptions) -> Spots:
    """The spots the options ask for, checked against the slide."""
    if isinstance(options.spots, Spots):
        spots = options.spots
    elif options.spots is not None:
        spots = read_spots(options.spots)
    else:
        spots = _lay_out(slide, slide_mpp, view, options)
    check_spots(spots, slide.level_sizes[0])
    if spots.note:
        logger.warning("%s", spots.note)
    return spots


def _lay_out(slide: Slide, slide_mpp: float, view: SlideView, options: PredictOptions) -> Spots:
    """The chosen layout over the tissue; a grid follows the view's pixels, so that tiles abut."""
    tissue = tissue_mask(slide, slide_mpp)
    if options.layout == "visium":
        return visium_spots(slide, slide_mpp, tissue)
    return grid_spots(slide, view.size_wh, view.scale_xy, view.mpp, options.pitch_um, tissue)


def _warn_of_the_bundle(bundle: Bundle) -> None:
    """Say what its maker said: that the weights are untrained, or that parity was missed."""
    note = bundle.manifest.provenance.get("note")
    if note:
        logger.warning("%s: %s", bundle.path, note)
    if not bundle.manifest.parity_passed:
        logger.warning("%s: differs from PyTorch beyond its gate, see parity.json", bundle.path)


def _facts(
    run: Run, slide_mpp: float, view: SlideView, spots: Spots, plan: TilePlan
) -> dict[str, Any]:
    """What the run was and what it cost, ready for JSON."""
    n_spots, n_tiles = len(spots.level0_xy), len(plan.origins_xy)
    needed = int(np.count_nonzero(plan.neighbor_mask))
    model, seconds = run.model, run.clock.seconds
    return {
        "bundle_id": model.bundle.id,
        "bundle_note": model.bundle.manifest.provenance.get("note", ""),
        "device": str(model.device),
        "backend": model.backend,
        "precision": model.bundle.manifest.precision,
        "slide_mpp": slide_mpp,
        "bundle_mpp": model.bundle.manifest.tile_mpp,
        "level0_px_per_tile_px": view.scale,
        "layout": spots.layout,
        "spots": n_spots,
        "tiles_encoded": n_tiles,
        "tiles_without_sharing": needed,
        "sharing": round(needed / n_tiles, 2),
        "spots_per_s": round(n_spots / seconds["total"], 2),
        "timings_s": {stage: round(took, 3) for stage, took in seconds.items()},
        "peak_memory_mb": _peak_memory_mb(),
        "versions": {
            "triplex-deploy": version("triplex-deploy"),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
