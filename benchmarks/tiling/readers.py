"""Read the tiles of a plan: as this package does, as users do today, and at the limit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

from triplex_deploy.slides import open_slide
from triplex_deploy.tiles import SlideView, TilePlan, stream_tiles
from triplex_deploy.tiles.stream import StreamStats

LARGE_CACHE_BYTES = 1 << 30
BATCH = 64
MPP = 0.5

Windows = NDArray[np.int64]  # (n, 4) x, y, width, height in level-0 pixels


@contextmanager
def ours(path: Path, plan: TilePlan, threads: int) -> Iterator[Callable[[], StreamStats]]:
    """Open a slide, and yield a function that reads every tile of the plan once."""
    with open_slide(path) as slide:
        view = SlideView.open(slide, MPP, MPP)

        def stream() -> StreamStats:
            stats = StreamStats()
            for batch in stream_tiles(view, plan, BATCH, threads, stats=stats):
                del batch
            return stats

        yield stream


@contextmanager
def openslide_per_region(
    path: Path, windows: Windows, cache_bytes: int | None = None
) -> Iterator[Callable[[], None]]:
    """Open a slide, and yield a function that reads regions by openslide-python and Pillow."""
    with openslide.OpenSlide(path) as slide:
        if cache_bytes is not None:
            slide.set_cache(openslide.OpenSlideCache(cache_bytes))

        def read() -> None:
            for x, y, width, height in windows.tolist():
                np.asarray(slide.read_region((x, y), 0, (width, height)).convert("RGB"))

        yield read


@contextmanager
def fastslide_per_region(path: Path, windows: Windows) -> Iterator[Callable[[], None]]:
    import fastslide

    slide = fastslide.FastSlide.from_file_path(str(path))

    def read() -> None:
        for x, y, width, height in windows.tolist():
            np.asarray(slide.read_region(location=(x, y), level=0, size=(width, height)))

    yield read


def has_fastslide() -> bool:
    return importlib.util.find_spec("fastslide") is not None


def segment_decoder(path: Path, segments: Iterable[int]) -> Callable[[], None] | None:
    """Return a function that decodes compressed tiles of level 0 with imagecodecs alone.

    It reads nothing: the bytes are in memory. None if the file is no TIFF.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0].aspage()
            file = tif.filehandle.fileno()
            places = [(page.dataoffsets[n], page.databytecounts[n]) for n in segments]
            data = [os.pread(file, count, offset) for offset, count in places]
            tables, ycbcr = page.jpegtables, int(page.photometric) == 6
            is_jpeg = int(page.compression) == 7
    except tifffile.TiffFileError:
        return None
    space = "YCBCR" if ycbcr else "RGB"

    def decode_jpeg() -> None:
        for tile in data:
            imagecodecs.jpeg8_decode(tile, tables=tables, colorspace=space, outcolorspace="RGB")

    def decode_jpeg2000() -> None:
        for tile in data:
            imagecodecs.jpeg2k_decode(tile)

    return decode_jpeg if is_jpeg else decode_jpeg2000


def windows_of(origins_xy: NDArray[np.int64], side_px: int) -> Windows:
    return np.hstack([origins_xy, np.full((len(origins_xy), 2), side_px)])
