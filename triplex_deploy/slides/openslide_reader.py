"""Slides of every format OpenSlide knows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.dicom_color import holds_mislabelled_ycbcr
from triplex_deploy.slides.guard import ReadGuard
from triplex_deploy.slides.openslide_pixels import PixelSource
from triplex_deploy.slides.slide import RGB, Slide

logger = logging.getLogger(__name__)

WHITE: RGB = (255, 255, 255)


def openslide_vendor(path: Path) -> str | None:
    """The vendor OpenSlide sees in the file, None when it knows none."""
    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


class OpenSlideReader(Slide):
    """A slide read through OpenSlide; transparent places show the slide's background colour."""

    @classmethod
    def open(cls, path: Path) -> OpenSlideReader:
        try:
            return cls(path, openslide.OpenSlide(path))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{path}: cannot be opened as a slide: {error}; check that the copy is complete"
            ) from error

    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        properties = handle.properties
        self.path = path
        self.format = properties[openslide.PROPERTY_NAME_VENDOR]
        self.level_sizes = handle.level_dimensions
        self.level_downsamples = handle.level_downsamples
        self.mpp_xy = _mpp_xy(
            properties.get(openslide.PROPERTY_NAME_MPP_X),
            properties.get(openslide.PROPERTY_NAME_MPP_Y),
        )
        self.mpp = None if self.mpp_xy is None else sum(self.mpp_xy) / 2
        self.background_rgb = _color(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
        is_ycbcr = self.format == "dicom" and holds_mislabelled_ycbcr(path, properties)
        if is_ycbcr:
            logger.warning("%s: the header says RGB, its JPEG frames are YCbCr; converted", path)
        self._handle = handle
        self._source = PixelSource(handle, self.background_rgb, is_ycbcr)
        self._guard = ReadGuard(path)

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        with self._guard.reading():
            try:
                return self._source.read(level, x, y, width, height)
            except openslide.OpenSlideError as error:
                # OpenSlide keeps its first error: every later read of this slide fails as well.
                raise SlideError(
                    f"{self.path}: reading {width}x{height} pixels at ({x}, {y}) of level {level} "
                    f"failed: {error}; the file is damaged or cut short, copy or export it again"
                ) from error

    def _release(self) -> None:
        self._guard.shut()
        self._handle.close()


def _mpp_xy(x: str | None, y: str | None) -> tuple[float, float] | None:
    try:
        return float(x or y or ""), float(y or x or "")
    except ValueError:
        return None


def _color(hex_rgb: str | None) -> RGB:
    if hex_rgb is None:
        return WHITE
    red, green, blue = bytes.fromhex(hex_rgb.lstrip("#"))
    return red, green, blue
