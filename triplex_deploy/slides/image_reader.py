"""Read plain JPEG and PNG images: one level, decoded as a whole on the first read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from triplex_deploy.errors import SlideError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides.memory import require_memory
from triplex_deploy.slides.mpp import plausible_mpp_xy
from triplex_deploy.slides.slide import DAMAGED, Size, Slide

logger = logging.getLogger(__name__)

MAX_PIXELS = 1_000_000_000
"""Most pixels that are decoded at once."""
BYTES_PER_PIXEL = 7
"""Most memory that decoding takes."""
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Pillow's color modes that become RGB."""
EXIF_ORIENTATION = 0x0112
MICROMETERS_PER_INCH = 25400.0


class ImageReader(Slide):
    """A JPEG or PNG; gray and palette images become RGB, transparency shows white.

    A resolution tag is used only if it is plausible for a microscope; photographs have tags of 72
    or 300 dpi without a meaning.
    """

    @classmethod
    def open(cls, path: Path, kind: str) -> ImageReader:
        """Open as ``kind`` ("jpeg" or "png"); the header is read now, the pixels later."""
        with _image(path, kind) as image:
            _require_usable(path, image)
            require_memory(path, BYTES_PER_PIXEL * image.width * image.height, image.size)
            with _reading(path, kind):
                orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            if orientation != 1:
                logger.warning(
                    "%s: EXIF orientation %s is ignored; pixels count as stored", path, orientation
                )
            return cls(path, kind, image.size, _mpp_xy(image))

    def __init__(
        self, path: Path, kind: str, size_wh: Size, mpp_xy: tuple[float, float] | None
    ) -> None:
        self.path = path
        self.format = kind
        self.level_sizes = (size_wh,)
        self.level_downsamples = (1.0,)
        self.mpp_xy = mpp_xy
        self.mpp = None if mpp_xy is None else sum(mpp_xy) / 2
        self.background_rgb = (255, 255, 255)
        self._pixels: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        return self._decoded()[y : y + height, x : x + width].copy()

    def _decoded(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._pixels is None:
                kind = self.format
                with _image(self.path, kind) as image, _reading(self.path, kind):
                    image.load()
                    self._pixels = _to_rgb(image)
            return self._pixels

    def _release(self) -> None:
        with self._lock:
            self._pixels = None


@contextmanager
def _image(path: Path, kind: str) -> Iterator[Image.Image]:
    """Yield the image with its header read; raises ``SlideError`` if the header is damaged."""
    # Use the plugin: Image.open refuses or warns above 89 megapixels.
    plugin = JpegImagePlugin.JpegImageFile if kind == "jpeg" else PngImagePlugin.PngImageFile
    with ExitStack() as opened:
        with _reading(path, kind):
            image = plugin(opened.enter_context(path.open("rb")))
        yield image


def _reading(path: Path, kind: str) -> AbstractContextManager[None]:
    """Turn any error while Pillow reads the file into ``SlideError``."""
    return damage_as(SlideError, f"{path}: not a readable {kind.upper()}", DAMAGED)


def _require_usable(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path}: {width}x{height} pixels would have to be decoded at once, the limit is "
            f"{MAX_PIXELS / 1e9:g} gigapixel; convert it to a tiled TIFF, "
            "such as with vips tiffsave --tile --pyramid"
        )
    if image.mode.startswith(("I", "F")) or _is_deep_png(image):
        raise SlideError(f"{path}: has more than 8 bits per channel; export it as 8-bit RGB")
    if image.mode not in MODES:
        raise SlideError(f"{path}: its colors are {image.mode}; export it as 8-bit RGB")
    if image.mode in ("1", "L", "LA"):
        logger.warning("%s: the image is gray; models expect H&E color", path)


def _is_deep_png(image: Image.Image) -> bool:
    return any("16B" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _mpp_xy(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if not dpi or not all(value > 0 for value in dpi):
        return None
    return plausible_mpp_xy(MICROMETERS_PER_INCH / dpi[0], MICROMETERS_PER_INCH / dpi[1])


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert to RGB in strips, which needs memory for one more copy of the picture only."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    transparent = image.mode in ("LA", "RGBA") or "transparency" in image.info
    for top in range(0, height, 1024):
        strip = image.crop((0, top, width, min(top + 1024, height)))
        if transparent:
            rgba = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels[top : top + 1024] = np.asarray(strip.convert("RGB"))
    return pixels
