"""``predict_slide``: one slide, one opened bundle, one gene-by-spot table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import THUMBNAIL_MAX_PX, Prediction
from triplex_deploy.pipeline.context import Run
from triplex_deploy.pipeline.encode import encode_tiles, needed_tiles, open_stores
from triplex_deploy.pipeline.feature_cache import FeatureCache, open_cache
from triplex_deploy.pipeline.fuse import predict_spots, relate_spots
from triplex_deploy.pipeline.metadata import Done, run_facts
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots, spot_regions
from triplex_deploy.pipeline.tuning import choose_setting
from triplex_deploy.progress import Progress, Silent, StageClock
from triplex_deploy.runtime.model import Model
from triplex_deploy.slides import Slide, open_slide, resolve_mpp, thumbnail
from triplex_deploy.spots import Spots, TissueMask, mask_overlay
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView


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
    clock = StageClock()
    manifest = model.bundle.manifest
    gene_index = gene_indices(options.genes, manifest.genes)
    with clock.stage("total", cpu_clock=time.process_time), open_slide(slide_path) as slide:
        slide_mpp = resolve_mpp(slide, options.mpp)
        view = SlideView.open(slide, slide_mpp, manifest.tile_mpp)
        with clock.stage("spots"):
            spots, tissue = place_spots(slide, slide_mpp, view, options)
        with clock.stage("thumbnail"):
            picture, overlay = _pictures(slide, tissue, options.skips_bad)
        with clock.stage("plan"):
            plan = plan_tiles(view.centers(spots.level0_xy), view.size_wh)
            plan = needed_tiles(plan, model.bundle.specs.values())
        job = _Job(Path(slide_path), slide_mpp, view, spots, plan, options)
        run = _begin_run(model, progress or Silent(), clock, job)
        expression, done = _predict_plan(run, job)
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
        run=run_facts(run, slide_mpp, view, spots, plan, done),
        barcodes=spots.barcodes,
    )


@dataclass(frozen=True)
class _Job:
    """One slide, placed and planned."""

    slide_path: Path
    slide_mpp: float
    view: SlideView
    spots: Spots
    plan: TilePlan
    options: PredictOptions


def _begin_run(model: Model, progress: Progress, clock: StageClock, job: _Job) -> Run:
    """The run with its sessions, and the number of lanes and tiles per call that suit it."""
    options = job.options
    with clock.stage("sessions"):
        sessions = model.concurrent_sessions()
    with clock.stage("tuning", cpu_clock=time.process_time):
        n_tiles = len(job.plan.origins_xy)
        setting = choose_setting(model, sessions, n_tiles, options.batch_size, options.threads)
    return Run(model, progress, sessions, setting, clock)


def _predict_plan(run: Run, job: _Job) -> tuple[NDArray[np.float32], Done]:
    """Encode, relate and predict a planned slide; returns expression (N, G) and what was done."""
    plan, options, stats = job.plan, job.options, StreamStats()
    regions = spot_regions(job.spots.level0_xy, job.slide_mpp, options.region_mm)
    with open_stores(run, plan, options) as encoded:
        encode_tiles(run, job.view, plan, encoded, options, stats, _cache(run, job))
        from_corner = options.region_mm is not None
        related = relate_spots(run, plan, encoded, job.spots.grid_rc, regions, from_corner)
        expression = predict_spots(run, plan, encoded, related)
        return expression, Done(stats, encoded, len(regions))


def _cache(run: Run, job: _Job) -> FeatureCache | None:
    options = job.options
    if options.cache is None:
        return None
    with run.clock.stage("digest"):
        return open_cache(options.cache, job.slide_path, job.view, run.model, options.on_bad_tile)


def _pictures(
    slide: Slide, tissue: TissueMask | None, skip_bad: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The thumbnail, and where a tissue mask chose the spots, that mask drawn over it."""
    picture = thumbnail(slide, THUMBNAIL_MAX_PX, skip_bad)
    return picture, None if tissue is None else mask_overlay(picture, tissue)
