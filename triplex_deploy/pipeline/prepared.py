"""Open a slide, place its spots and plan its tiles; also ahead, while another slide is encoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import SlideError
from triplex_deploy.outputs.prediction import THUMBNAIL_MAX_PX
from triplex_deploy.pipeline.familiar import judge_picture
from triplex_deploy.pipeline.needed import needed_tiles
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.pipeline.side_task import Check, SideTask
from triplex_deploy.progress import StageClock, WallClock
from triplex_deploy.slides import Slide, open_slide, resolve_mpp, thumbnail
from triplex_deploy.spots import Spots, TissueMask, mask_overlay
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.view import SlideView

_CHECK_S: Final = 0.05
"""Seconds between two looks whether a thread that waits has been stopped."""

Drawn: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, str | None]
"""The thumbnail, the tissue drawn on it if there is a mask, and what speaks against H&E."""


@dataclass(frozen=True)
class PreparedSlide:
    """An open slide with its spots placed and its tiles planned."""

    slide: Slide
    """The slide."""
    slide_mpp: float
    """Microns per level-0 pixel."""
    view: SlideView
    """The slide at the bundle's scale."""
    spots: Spots
    """Its spots."""
    plan: TilePlan
    """Its tiles."""
    drawing: SideTask[Drawn]
    """Draws its pictures."""


@contextmanager
def prepared_slide(
    path: str | Path,
    bundle: Bundle,
    options: PredictOptions,
    clock: StageClock,
    wall: WallClock,
) -> Iterator[PreparedSlide]:
    """Yield a slide that is ready to be encoded; it is closed in the end.

    If the block fails because the slide is damaged, the error of its thumbnail comes first, so that
    a damaged slide gives the same error each time.

    Args:
        path: The slide file.
        bundle: The bundle of the prediction.
        options: Where the spots are, and what to do with unreadable parts.
        clock: Receives the seconds of the stages.
        wall: Receives the elapsed seconds of the steps.

    Raises:
        SlideError: The slide cannot be opened or has no usable scale.
        SpotsError: There are no usable spots.
    """
    with ExitStack() as stack:
        with wall.stage("open slide"):
            slide = stack.enter_context(open_slide(path))
            slide_mpp = resolve_mpp(slide, options.mpp)
            view = SlideView.open(slide, slide_mpp, bundle.manifest.tile_mpp)
        pictures = _Pictures(slide, options)
        drawing = stack.enter_context(SideTask("thumbnail", pictures.draw, clock))
        with clock.stage("spots"), wall.stage("find tissue and spots"):
            spots, tissue = place_spots(slide, slide_mpp, view, options)
        pictures.take(tissue)
        with drawing.error_first(SlideError):
            with clock.stage("plan"), wall.stage("find tissue and spots"):
                centers = view.centers(spots.level0_xy)
                plan = plan_tiles(centers, view.size_wh, bundle.config.neighbors)
                plan = needed_tiles(plan, bundle.specs.values())
            yield PreparedSlide(slide, slide_mpp, view, spots, plan, drawing)


class NextSlide:
    """Prepares a slide in a thread of its own, while another one is encoded.

    ``taken`` gives it to the thread that predicts it; ``close`` discards it.
    """

    def __init__(self, path: Path, bundle: Bundle, options: PredictOptions) -> None:
        """Begin."""
        self._path, self._bundle, self._options = path, bundle, options
        self._stack = ExitStack()
        self._clock = StageClock()
        self._task = SideTask("next slide", self._prepare, self._clock)
        self._task.__enter__()

    @contextmanager
    def taken(self, clock: StageClock, wall: WallClock) -> Iterator[PreparedSlide]:
        """Yield the slide as ``prepared_slide`` does, and raise its errors."""
        with self._stack:
            with clock.stage("spots"), wall.stage("find tissue and spots"):
                prepared = self._task.result()
            for name, cpu_s in self._clock.cpu_seconds.items():
                clock.add(name, 0.0, cpu_s)
            yield prepared

    def close(self, kind: type[BaseException] | None = None) -> None:
        """Stop as soon as possible, and close the slide; after Ctrl-C, ``kind``, wait briefly."""
        self._task.__exit__(kind, None, None)
        self._stack.close()

    def _prepare(self, check: Check) -> PreparedSlide:
        check()
        return self._stack.enter_context(
            prepared_slide(self._path, self._bundle, self._options, StageClock(), WallClock())
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

    def draw(self, check: Check) -> Drawn:
        """Return the thumbnail, a copy with the mask drawn on it, and why it is hardly H&E.

        The last two are None if there is no mask, and if nothing speaks against H&E.
        """
        picture = thumbnail(self._slide, THUMBNAIL_MAX_PX, self._options.skips_bad, check)
        objection = judge_picture(self._slide.path, picture, self._options.unfamiliar)
        while not self._is_known.wait(_CHECK_S):
            check()
        tissue = self._tissue
        return picture, None if tissue is None else mask_overlay(picture, tissue), objection
