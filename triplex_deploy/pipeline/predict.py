"""``predict_slide``: one slide, one opened bundle, one gene-by-spot table."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import N_TARGET_TOKENS
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import THUMBNAIL_MAX_PX, Prediction
from triplex_deploy.pipeline.encode import encode_tiles, own_tiles
from triplex_deploy.pipeline.facts import run_facts
from triplex_deploy.pipeline.fuse import encode_slide, fuse_spots
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.pipeline.progress import Progress, Silent
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.token_store import TokenStore
from triplex_deploy.runtime.model import Model
from triplex_deploy.slides import Slide, open_slide, resolve_mpp, thumbnail
from triplex_deploy.spots import Spots, TissueMask, mask_overlay
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView

logger = logging.getLogger(__name__)


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
            spots, tissue = place_spots(slide, slide_mpp, view, options)
        with run.clock.stage("thumbnail"):
            picture, overlay = _pictures(slide, tissue, options.skips_bad)
        with run.clock.stage("plan"):
            plan = plan_tiles(view.centers(spots.level0_xy), view.size_wh)
        stats = StreamStats()
        expression = _predict_plan(run, view, plan, spots, options, stats)
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
        tissue_overlay=overlay,
        run=run_facts(run, slide_mpp, view, spots, plan, stats),
        barcodes=spots.barcodes,
    )


def _predict_plan(
    run: Run,
    view: SlideView,
    plan: TilePlan,
    spots: Spots,
    options: PredictOptions,
    stats: StreamStats,
) -> NDArray[np.float32]:
    """Encode and fuse a planned slide; returns expression (N, G)."""
    own = own_tiles(plan)
    shape = (own.count, N_TARGET_TOKENS, run.model.bundle.config.embedding_dim)
    with TokenStore(shape, options.token_bytes) as store:
        features = encode_tiles(run, view, plan, own, store, options, stats)
        global_tokens = encode_slide(run, plan, features, spots.grid_rc)
        return fuse_spots(run, plan, features, global_tokens, own, store)


def _pictures(
    slide: Slide, tissue: TissueMask | None, skip_bad: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The thumbnail, and where a tissue mask chose the spots, that mask drawn over it."""
    picture = thumbnail(slide, THUMBNAIL_MAX_PX, skip_bad)
    return picture, None if tissue is None else mask_overlay(picture, tissue)


def _warn_of_the_bundle(bundle: Bundle) -> None:
    """Say what its maker said: that the weights are untrained, or that parity was missed."""
    note = bundle.manifest.provenance.get("note")
    if note:
        logger.warning("%s: %s", bundle.path, note)
    if not bundle.manifest.parity_passed:
        logger.warning("%s: differs from PyTorch beyond its gate, see parity.json", bundle.path)
