"""Predict the expression of one slide with one opened bundle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.cost import announce_cost
from triplex_deploy.pipeline.encode import encode_tiles, open_row_stores
from triplex_deploy.pipeline.familiar import judge, measure_familiarity
from triplex_deploy.pipeline.feature_cache import FeatureCache, open_cache
from triplex_deploy.pipeline.fuse import (
    SPOTS_PER_BATCH,
    join_members,
    predict_spots,
    run_slide_graphs,
)
from triplex_deploy.pipeline.metadata import RunCounts, run_metadata
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import spot_regions
from triplex_deploy.pipeline.prepared import NextSlide, PreparedSlide, prepared_slide
from triplex_deploy.pipeline.reliable import bundle_reliability, expects_error
from triplex_deploy.pipeline.side_task import Check, SideTask, WatchedProgress
from triplex_deploy.pipeline.tile_features import features_of_spots, require_features
from triplex_deploy.pipeline.tuning import choose_setting
from triplex_deploy.progress import Progress, Silent, StageClock, WallClock
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.padding import pad_batches
from triplex_deploy.runtime.session import Session
from triplex_deploy.slides.slide_files import slide_name
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView


def predict_slide(
    slide_path: str | Path,
    model: Model,
    options: PredictOptions | None = None,
    progress: Progress | None = None,
    ahead: NextSlide | None = None,
) -> Prediction:
    """Predict the expression of every spot of one slide.

    Args:
        slide_path: The slide file.
        model: The opened bundle.
        options: Choices of this prediction; the defaults of ``PredictOptions`` if None.
        progress: Receives the progress; nothing is shown if None.
        ahead: The same slide, prepared with the same options while another one was predicted.

    Returns:
        The expression of every spot, with its position and the metadata of the run.

    Raises:
        SlideError: The slide cannot be opened or read, has no usable scale, or was replaced while
            it was read.
        SpotsError: There are no usable spots.
        ConfigError: An option does not fit, such as a gene that the bundle does not predict.
        OutputError: There is no room for features that do not fit in memory.
    """
    options = options or PredictOptions()
    clock, wall = StageClock(), WallClock()
    manifest = model.bundle.manifest
    gene_index = gene_indices(options.genes, manifest.genes)
    if options.save_features:
        require_features(model.bundle)
    reliability = bundle_reliability(model.bundle)
    with (
        clock.stage("total", cpu_clock=time.process_time),
        SideTask("sessions", partial(_open_sessions, model), clock) as opening,
        (
            ahead.taken(clock, wall)
            if ahead is not None
            else prepared_slide(slide_path, model.bundle, options, clock, wall)
        ) as planned,
    ):
        slide, drawing, spots, plan = planned.slide, planned.drawing, planned.spots, planned.plan
        watched = WatchedProgress(progress or Silent(), drawing)
        with wall.stage("load model"):
            context = _open_context(model, watched, clock, planned, options, opening)
        context = replace(context, wall=wall)
        announce_cost(slide_path, context, plan, spots.layout)
        predicted, counts = _run_graphs(context, planned, options)
        slide.require_unchanged()
        with clock.stage("thumbnail"), wall.stage("thumbnail"):
            picture, overlay, objection = drawing.result()
    rmse = None
    if reliability is not None and expects_error(model.bundle, reliability):
        rmse = reliability.rmse
    expression, spread = join_members(predicted, model.bundle.config.n_members, rmse)
    return Prediction(
        slide_name=slide_name(Path(slide_path)),
        expression=np.ascontiguousarray(expression[:, gene_index]),
        genes=tuple(manifest.genes[i] for i in gene_index),
        level0_xy=spots.level0_xy,
        grid_rc=spots.grid_rc,
        slide_size_wh=slide.level_sizes[0],
        slide_mpp=planned.slide_mpp,
        spot_diameter_px=spots.spot_diameter_px,
        thumbnail=picture,
        tissue_overlay=overlay,
        run=run_metadata(
            context, planned.slide_mpp, planned.view, spots, plan, counts, reliability, objection
        ),
        barcodes=spots.barcodes,
        familiarity=None if counts.familiarity is None else counts.familiarity.per_spot,
        features=counts.features,
        spread=None if spread is None else np.ascontiguousarray(spread[:, gene_index]),
        reliability=None if reliability is None else reliability.select(gene_index),
    )


def _open_sessions(model: Model, check: Check) -> Mapping[str, Session]:
    """Open the sessions, and load the graphs that the first tile needs."""
    sessions = model.concurrent_sessions()
    _prepare([session for session in sessions.values() if session.spec.kind == "per tile"], check)
    return sessions


def _prepare(sessions: Iterable[Session], check: Check) -> None:
    for session in sessions:
        check()
        session.prepare()


def _open_context(
    model: Model,
    progress: Progress,
    clock: StageClock,
    slide: PreparedSlide,
    options: PredictOptions,
    opening: SideTask[Mapping[str, Session]],
) -> PredictionContext:
    """Take the sessions, and choose the number of workers and tiles per call."""
    with clock.stage("sessions"):
        sessions = opening.result()
    with clock.stage("tuning", cpu_clock=time.process_time):
        n_tiles = len(slide.plan.origins_xy)
        setting = choose_setting(
            model, sessions, n_tiles, options.batch_size, options.threads, slide.drawing.result
        )
    if model.device != CPU:
        kind = model.device.kind
        rows = {"per tile": setting.batch_size, "per batch": SPOTS_PER_BATCH[kind]}
        sessions = pad_batches(sessions, rows)
    return PredictionContext(model, progress, sessions, setting, clock)


def _run_graphs(
    context: PredictionContext, slide: PreparedSlide, options: PredictOptions
) -> tuple[NDArray[np.float32], RunCounts]:
    """Run all graphs over a planned slide; return all members' expression and the counts."""
    plan, stats = slide.plan, StreamStats()
    regions = spot_regions(slide.spots.level0_xy, slide.slide_mpp, options.region_mm)
    wall, before = context.wall, context.cpu_of_runtime()
    later = [session for session in context.sessions.values() if session.spec.kind != "per tile"]
    with (
        SideTask("sessions", partial(_prepare, later), context.clock) as preparing,
        open_row_stores(context, plan, options) as encoded,
    ):
        with wall.stage("read and encode tiles"):
            cache = _cache(context, slide.view, options)
            encode_tiles(context, slide.view, plan, encoded, options, stats, cache)
        with context.clock.stage("sessions"), wall.stage("load model"):
            preparing.result()
        familiarity = measure_familiarity(context.model.bundle, plan, encoded)
        judge(slide.view.slide.path, familiarity, options.unfamiliar)
        from_corner = options.region_mm is not None
        with wall.stage("compare spots"):
            per_spot = run_slide_graphs(
                context, plan, encoded, slide.spots.grid_rc, regions, from_corner
            )
        with wall.stage("predict genes"):
            expression = predict_spots(context, plan, encoded, per_spot)
        context.add_cpu_of_runtime(before)
        features = features_of_spots(plan, encoded) if options.save_features else None
        return expression, RunCounts(stats, encoded, len(regions), features, familiarity)


def _cache(
    context: PredictionContext, view: SlideView, options: PredictOptions
) -> FeatureCache | None:
    if options.cache is None:
        return None
    with context.clock.stage("digest"):
        return open_cache(
            options.cache,
            view,
            context.model,
            options.on_bad_tile,
            options.shared_cache,
        )
