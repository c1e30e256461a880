"""Predict the expression of one slide with one opened bundle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import THUMBNAIL_MAX_PX, Prediction
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.cost import announce_cost
from triplex_deploy.pipeline.encode import encode_tiles, needed_tiles, open_row_stores
from triplex_deploy.pipeline.familiar import judge, judge_picture, measure_familiarity
from triplex_deploy.pipeline.feature_cache import FeatureCache, open_cache
from triplex_deploy.pipeline.fuse import (
    SPOTS_PER_BATCH,
    join_members,
    predict_spots,
    run_slide_graphs,
)
from triplex_deploy.pipeline.metadata import RunCounts, run_metadata
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots, spot_regions
from triplex_deploy.pipeline.reliable import bundle_reliability, expects_error
from triplex_deploy.pipeline.side_task import Check, SideTask, WatchedProgress
from triplex_deploy.pipeline.tile_features import features_of_spots, require_features
from triplex_deploy.pipeline.tuning import choose_setting
from triplex_deploy.progress import Progress, Silent, StageClock, WallClock
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.padding import pad_batches
from triplex_deploy.runtime.session import Session
from triplex_deploy.slides import Slide, open_slide, resolve_mpp, thumbnail
from triplex_deploy.slides.slide_files import slide_name
from triplex_deploy.spots import Spots, TissueMask, mask_overlay
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.stream import StreamStats
from triplex_deploy.tiles.view import SlideView

_CHECK_S: Final = 0.05
"""Seconds between two looks whether a thread that waits has been stopped."""

_Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""The thumbnail, and the tissue drawn on it if there is a mask."""


def predict_slide(
    slide_path: str | Path,
    model: Model,
    options: PredictOptions | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict the expression of every spot of one slide.

    Args:
        slide_path: The slide file.
        model: The opened bundle.
        options: Choices of this prediction; the defaults of ``PredictOptions`` if None.
        progress: Receives the progress; nothing is shown if None.

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
        ExitStack() as stack,
    ):
        with wall.stage("open slide"):
            slide = stack.enter_context(open_slide(slide_path))
            slide_mpp = resolve_mpp(slide, options.mpp)
            view = SlideView.open(slide, slide_mpp, manifest.tile_mpp)
        pictures = _Pictures(slide, options)
        with SideTask("thumbnail", pictures.draw, clock) as drawing:
            with clock.stage("spots"), wall.stage("find tissue and spots"):
                spots, tissue = place_spots(slide, slide_mpp, view, options)
            pictures.take(tissue)
            with drawing.error_first(SlideError):  # a damaged slide gives one error
                with clock.stage("plan"), wall.stage("find tissue and spots"):
                    centers = view.centers(spots.level0_xy)
                    plan = plan_tiles(centers, view.size_wh, model.bundle.config.neighbors)
                    plan = needed_tiles(plan, model.bundle.specs.values())
                planned = _PlannedSlide(slide_mpp, view, spots, plan, options)
                watched = WatchedProgress(progress or Silent(), drawing)
                with wall.stage("load model"):
                    context = _open_context(model, watched, clock, planned, opening, drawing)
                context = replace(context, wall=wall)
                announce_cost(slide_path, context, plan, spots.layout)
                predicted, counts = _run_graphs(context, planned)
                slide.require_unchanged()
                with clock.stage("thumbnail"), wall.stage("thumbnail"):
                    picture, overlay = drawing.result()
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
        slide_mpp=slide_mpp,
        spot_diameter_px=spots.spot_diameter_px,
        thumbnail=picture,
        tissue_overlay=overlay,
        run=run_metadata(context, slide_mpp, view, spots, plan, counts, reliability),
        barcodes=spots.barcodes,
        familiarity=None if counts.familiarity is None else counts.familiarity.per_spot,
        features=counts.features,
        spread=None if spread is None else np.ascontiguousarray(spread[:, gene_index]),
        reliability=None if reliability is None else reliability.select(gene_index),
    )


@dataclass(frozen=True)
class _PlannedSlide:
    """A slide with its spots placed and its tiles planned."""

    slide_mpp: float
    view: SlideView
    spots: Spots
    plan: TilePlan
    options: PredictOptions


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
    slide: _PlannedSlide,
    opening: SideTask[Mapping[str, Session]],
    drawing: SideTask[_Drawn],
) -> PredictionContext:
    """Take the sessions, and choose the number of workers and tiles per call."""
    options = slide.options
    with clock.stage("sessions"):
        sessions = opening.result()
    with clock.stage("tuning", cpu_clock=time.process_time):
        n_tiles = len(slide.plan.origins_xy)
        setting = choose_setting(
            model, sessions, n_tiles, options.batch_size, options.threads, drawing.result
        )
    if model.device != CPU:
        kind = model.device.kind
        rows = {"per tile": setting.batch_size, "per batch": SPOTS_PER_BATCH[kind]}
        sessions = pad_batches(sessions, rows)
    return PredictionContext(model, progress, sessions, setting, clock)


def _run_graphs(
    context: PredictionContext, slide: _PlannedSlide
) -> tuple[NDArray[np.float32], RunCounts]:
    """Run all graphs over a planned slide; return all members' expression and the counts."""
    plan, options, stats = slide.plan, slide.options, StreamStats()
    regions = spot_regions(slide.spots.level0_xy, slide.slide_mpp, options.region_mm)
    wall, before = context.wall, context.cpu_of_runtime()
    later = [session for session in context.sessions.values() if session.spec.kind != "per tile"]
    with (
        SideTask("sessions", partial(_prepare, later), context.clock) as preparing,
        open_row_stores(context, plan, options) as encoded,
    ):
        with wall.stage("read and encode tiles"):
            encode_tiles(context, slide.view, plan, encoded, options, stats, _cache(context, slide))
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


def _cache(context: PredictionContext, slide: _PlannedSlide) -> FeatureCache | None:
    options = slide.options
    if options.cache is None:
        return None
    with context.clock.stage("digest"):
        return open_cache(
            options.cache,
            slide.view,
            context.model,
            options.on_bad_tile,
            options.shared_cache,
        )


class _Pictures:
    """Draws the pictures of a slide, beginning before it is known where the tissue is."""

    def __init__(self, slide: Slide, options: PredictOptions) -> None:
        self._slide = slide
        self._options = options
        self._tissue: TissueMask | None = None
        self._is_known = threading.Event()

    def take(self, tissue: TissueMask | None) -> None:
        """Take the tissue mask, None if the spots needed none."""
        self._tissue = tissue
        self._is_known.set()

    def draw(self, check: Check) -> _Drawn:
        """Return the thumbnail, and a copy with the tissue mask drawn on it if there is a mask."""
        picture = thumbnail(self._slide, THUMBNAIL_MAX_PX, self._options.skips_bad, check)
        judge_picture(self._slide.path, picture, self._options.unfamiliar)
        while not self._is_known.wait(_CHECK_S):
            check()
        tissue = self._tissue
        return picture, None if tissue is None else mask_overlay(picture, tissue)
