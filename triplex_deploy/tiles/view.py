"""View a slide at the bundle's microns per pixel.

This file alone defines the map between the frames. Per axis:

- Level pixel = level-0 pixel / ratio. If the slide's size divided by an integer is the level's
  size up to rounding, ratio is that integer; otherwise it is the quotient of the two sizes.
- View pixel = level-0 pixel / scale. If the level's mpp is within 1 % of the wanted mpp, the
  level's pixels are those of the view and scale is ratio; otherwise scale is wanted mpp divided by
  slide mpp.
- So view pixel v covers level pixels [v * step, (v + 1) * step), step = scale / ratio.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError, TilingError
from triplex_deploy.slides import Slide
from triplex_deploy.slides.slide import read_padded
from triplex_deploy.tiles.kernels import resample
from triplex_deploy.tiles.weights import AxisWeights, area_weights, bilinear_weights

MPP_TOLERANCE = 0.01
"""Relative difference from the wanted mpp up to which a level is not resampled."""
MAX_ENLARGEMENT = 2.0
"""Largest factor by which a slide is enlarged."""

Resampling = Literal["none", "area", "bilinear"]
"""How the pixels of a view are made from those of a level."""
Pair = tuple[float, float]
"""Values along x and y."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideView:
    """A slide's pixels at one mpp; create it with ``SlideView.open``. The caller closes it."""

    slide: Slide
    """The slide."""
    mpp: float
    """Microns per view pixel."""
    level: int
    """The slide level the pixels come from."""
    resampling: Resampling
    """How pixels are resampled: ``none``, ``area`` averaging, or ``bilinear`` enlargement."""
    scale_xy: Pair
    """Level-0 pixels per view pixel along x and y."""
    step_xy: Pair
    """Pixels of ``level`` per view pixel."""
    size_wh: tuple[int, int]
    """Width and height of the view: the whole view pixels in the slide."""

    @classmethod
    def open(cls, slide: Slide, slide_mpp: float, mpp: float) -> SlideView:
        """View ``slide`` at ``mpp``.

        Pixels come from the coarsest level that is not coarser than ``mpp``.

        Args:
            slide: The slide.
            slide_mpp: Microns per level-0 pixel.
            mpp: Microns per view pixel.

        Returns:
            The view.

        Raises:
            SlideError: A scale is not positive, or the finest level would have to be enlarged more
                than twofold.
        """
        if not (0 < slide_mpp < np.inf and 0 < mpp < np.inf):
            raise SlideError(f"{slide.path}: mpp {slide_mpp} viewed at {mpp}; use positive numbers")
        wanted_scale = mpp / slide_mpp
        level = _best_level(slide, wanted_scale)
        ratio_xy = _level_ratio_xy(slide, level)
        resampling = _resampling(wanted_scale / _mean(ratio_xy))
        scale_xy = ratio_xy if resampling == "none" else (wanted_scale, wanted_scale)
        step_xy = (scale_xy[0] / ratio_xy[0], scale_xy[1] / ratio_xy[1])
        if resampling == "bilinear":
            _check_enlargement(slide, slide_mpp, mpp)
        size_wh = _view_size(slide, level, scale_xy, resampling)
        _log.info(
            "%s: level %d at %.4g um/px serves %.4g um/px, resampling: %s",
            slide.path,
            level,
            _mean(ratio_xy) * slide_mpp,
            mpp,
            resampling,
        )
        return cls(slide, mpp, level, resampling, scale_xy, step_xy, size_wh)

    @property
    def scale(self) -> float:
        """Level-0 pixels per view pixel, both axes averaged."""
        return _mean(self.scale_xy)

    def centers(self, level0_xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the view pixels (N, 2) that contain level-0 points (N, 2).

        Raises ``TilingError`` if a point is not finite.
        """
        points = np.asarray(level0_xy, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise TilingError(
                f"level0_xy: shape {points.shape}; pass finite (x, y) of shape (N, 2)"
            )
        # The millionth absorbs float error, so that a whole number stays that pixel.
        return np.floor(points / self.scale_xy + 1e-6).astype(np.int64)

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the RGB pixels (height, width, 3) of a window of the view; thread-safe.

        The window may lie anywhere; pixels outside the view are 0. A pixel has the same value
        in every window.
        """
        return read_padded(self._read_inside, self.size_wh, (x, y), (width, height))

    def _read_inside(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if self.resampling == "none":
            return np.ascontiguousarray(self.slide.read(self.level, x, y, width, height))
        columns, rows = self.weights(0, x, width), self.weights(1, y, height)
        (left, right), (top, bottom) = columns.span, rows.span
        block = self.slide.read(self.level, left, top, right - left, bottom - top)
        return resample(
            np.ascontiguousarray(block), rows.relative_to(top), columns.relative_to(left)
        )

    def weights(self, axis: int, first: int, count: int) -> AxisWeights:
        """Return the weights of level pixels in ``count`` >= 1 view pixels along x (0) or y (1)."""
        weights = area_weights if self.resampling == "area" else bilinear_weights
        return weights(first, count, self.step_xy[axis], self.slide.level_sizes[self.level][axis])


def _level_ratio_xy(slide: Slide, level: int) -> Pair:
    """Return level-0 pixels per pixel of ``level`` along x and y (``ratio`` of the module)."""
    full, reduced = slide.level_sizes[0], slide.level_sizes[level]
    ratio = (full[0] / reduced[0], full[1] / reduced[1])
    whole = round(_mean(ratio))
    if all(abs(reduced[axis] * whole - full[axis]) < whole for axis in (0, 1)):
        return float(whole), float(whole)
    return ratio


def _best_level(slide: Slide, scale: float) -> int:
    """Return the coarsest level that is not coarser than ``scale``, or else the finest."""
    ratios = [_mean(_level_ratio_xy(slide, level)) for level in range(len(slide.level_sizes))]
    usable = [n for n, ratio in enumerate(ratios) if _resampling(scale / ratio) != "bilinear"]
    return max(usable, key=lambda level: ratios[level], default=0)


def _resampling(step: float) -> Resampling:
    if abs(step - 1) <= MPP_TOLERANCE + 1e-9:
        return "none"
    return "area" if step > 1 else "bilinear"


def _mean(pair: Pair) -> float:
    return (pair[0] + pair[1]) / 2


def _check_enlargement(slide: Slide, slide_mpp: float, mpp: float) -> None:
    if slide_mpp / mpp > MAX_ENLARGEMENT:
        raise SlideError(
            f"{slide.path}: {slide_mpp:.4g} um/px is too coarse for a model of {mpp:.4g} um/px; "
            f"use a slide scanned at {mpp * MAX_ENLARGEMENT:.4g} um/px or finer"
        )
    _log.warning(
        "%s: %.4g um/px is coarser than the model's %.4g um/px; enlarging",
        slide.path,
        slide_mpp,
        mpp,
    )


def _view_size(slide: Slide, level: int, scale_xy: Pair, resampling: Resampling) -> tuple[int, int]:
    width, height = (
        int(np.floor(full / scale + 1e-6))
        for full, scale in zip(slide.level_sizes[0], scale_xy, strict=True)
    )
    if resampling == "none":  # a level may be a pixel short of the slide
        width = min(width, slide.level_sizes[level][0])
        height = min(height, slide.level_sizes[level][1])
    return width, height
