"""Read OME-Zarr images, NGFF 0.4 and 0.5, with the package zarr."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.install import install_command
from triplex_deploy.slides.mpp import plausible_mpp_xy
from triplex_deploy.slides.slide import DAMAGED, SegmentGrid, Slide, reading_tile
from triplex_deploy.slides.zarr_blosc import open_checked
from triplex_deploy.slides.zarr_metadata import ZarrImage, read_zarr_image

logger = logging.getLogger(__name__)

SEGMENT_PX: Final = (256, 2048)
"""Chunks of these sides are segments; others are read in squares of the default side."""


class ZarrReader(Slide):
    """An OME-Zarr image in RGB or gray, 8 bits."""

    @classmethod
    def open(cls, path: Path) -> ZarrReader:
        """Read the metadata and open the arrays; pixels are read later.

        Raises:
            SlideError: The folder is damaged, no RGB image, or zarr is not installed.
        """
        image = read_zarr_image(path)
        try:
            import zarr  # noqa: F401 - whether it is installed
        except ImportError as error:
            raise SlideError(
                f"{path}: OME-Zarr needs the package zarr; run `{install_command('zarr')}`"
            ) from error
        with damage_as(SlideError, f"{path}: cannot be opened as Zarr", DAMAGED):
            arrays = [open_checked(level.folder) for level in image.levels]
        return cls(path, image, arrays)

    def __init__(self, path: Path, image: ZarrImage, arrays: list[Any]) -> None:
        self.path = path
        self.format = "ome-zarr"
        sizes = sorted((image.size_wh(i) for i in range(len(arrays))), reverse=True)
        self.level_sizes = tuple(image.size_wh(i) for i in range(len(arrays)))
        if list(self.level_sizes) != sizes:
            raise SlideError(f"{path}: its levels are not ordered from fine to coarse; {DAMAGED}")
        width, height = self.level_sizes[0]
        self.level_downsamples = tuple((width / w + height / h) / 2 for w, h in self.level_sizes)
        um_xy = image.um_xy
        self.mpp_xy = None if um_xy is None else plausible_mpp_xy(*um_xy)
        self.mpp = None if self.mpp_xy is None else sum(self.mpp_xy) / 2
        self.background_rgb = (255, 255, 255)
        self._image = image
        self._arrays = arrays
        if "c" not in image.axes or arrays[0].shape[image.axes.index("c")] == 1:
            logger.warning("%s: the image is gray; models expect H&E color", path)

    def segment_grid(self, level: int) -> SegmentGrid:
        """Return the chunks of a level, if their sides are those of a tile."""
        chunks = dict(zip(self._image.axes, self._image.levels[level].chunks, strict=True))
        low, high = SEGMENT_PX
        if not all(low <= chunks[axis] <= high for axis in ("x", "y")):
            return super().segment_grid(level)
        return SegmentGrid.over(self.level_sizes[level], chunks["x"], chunks["y"])

    def read_segment(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        with reading_tile(self.path, level, column, row):
            super().read_segment(level, column, row, out)

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        window = {"x": slice(x, x + width), "y": slice(y, y + height)}
        chosen = tuple(window.get(axis, slice(None)) for axis in self._image.axes)
        what = f"{self.path}: reading {width}x{height} pixels at ({x}, {y}) of level {level} failed"
        with damage_as(SlideError, what, f"{DAMAGED}, or pass --on-bad-tile skip"):
            values = np.asarray(self._arrays[level][chosen])
        return self._rgb(values, (height, width))

    def _rgb(self, values: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return pixels (h, w, 3) of a window in the order of the image's axes."""
        axes = [axis for axis in self._image.axes if axis not in "tz"]
        flat = values.reshape(
            [n for n, axis in zip(values.shape, self._image.axes, strict=True) if axis in axes]
        )
        if "c" not in axes:
            axes, flat = [*axes, "c"], flat[..., None]
        pixels = flat.transpose([axes.index(axis) for axis in ("y", "x", "c")])
        return np.ascontiguousarray(np.broadcast_to(pixels, (*size_hw, 3)), np.uint8)

    def _release(self) -> None:
        self._arrays = []
