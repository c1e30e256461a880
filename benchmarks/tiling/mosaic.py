"""Write slides for the benchmark: a mosaic of real sections, or of drawn tissue without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SECTIONS = ("C2", "C3", "C4", "C5")
MPP = 0.5
JPEG_QUALITY = 85
J2K_PSNR = 40
TILE_PX = 256
SOFTWARE = "Aperio Image Library v12.0.0\n{w}x{h} |AppMag = 20|MPP = {mpp}"

Picture = NDArray[np.uint8]


def section_picture(section: str) -> Picture | None:
    """Return a her2st section at full resolution, (h, w, 3); None if its data are absent."""
    found = sorted((SHARED_DATA / "her2st/ST-imgs/C" / section).glob("*.jpg"))
    return imagecodecs.jpeg8_decode(found[0].read_bytes()) if found else None


def mosaic(side_px: int, first_px: int = 0) -> Iterator[Picture]:
    """Yield rows of ``TILE_PX`` pixels of a square picture of sections without gaps.

    Args:
        side_px: Side of the picture.
        first_px: Where it starts in the sections along both axes; their margins are bare glass.
    """
    pictures = [picture for name in SECTIONS if (picture := section_picture(name)) is not None]
    pictures = pictures or [drawn_tissue(4096, seed) for seed in range(4)]
    height = min(picture.shape[0] for picture in pictures)
    for top in range(first_px, first_px + side_px, TILE_PX):
        rows = np.arange(top, min(top + TILE_PX, first_px + side_px))
        band = [pictures[(k + top // height) % len(pictures)] for k in range(len(pictures))]
        parts = [picture[rows % height] for picture in band]
        row = np.concatenate(parts, axis=1)
        repeats = -(-(first_px + side_px) // row.shape[1])
        row = np.concatenate([row] * repeats, axis=1)
        yield np.ascontiguousarray(row[:, first_px : first_px + side_px])


def drawn_tissue(side_px: int, seed: int) -> Picture:
    """Return pink and violet blobs with camera noise, about as hard to compress as tissue."""
    rng = np.random.default_rng(seed)
    blobs = np.kron(rng.random((side_px // 16, side_px // 16)), np.ones((16, 16)))
    blobs = (blobs + np.roll(blobs, 7, 0) + np.roll(blobs, 5, 1))[..., None] / 3
    color = np.array([235, 190, 215]) * (1 - blobs) + np.array([120, 60, 140]) * blobs
    noise = rng.normal(0, 6, (side_px, side_px, 1))
    return np.clip(color + noise, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Codec:
    """How the tiles of a slide are compressed, and what its tags say of that."""

    encode: Callable[[Picture], bytes]
    """Return the compressed bytes of a tile."""
    compression: str
    """Name of the compression, as tifffile knows it."""
    photometric: str
    """Color space of the compressed pixels."""
    subsampling: tuple[int, int] | None = None
    """Subsampling of the chroma; None if there is none."""


def jpeg_codec() -> Codec:
    """Return the codec of JPEG tiles."""

    def encode(tile: Picture) -> bytes:
        encoded = imagecodecs.jpeg8_encode(
            tile, JPEG_QUALITY, colorspace="RGB", outcolorspace="YCbCr", subsampling="420"
        )
        return bytes(encoded)

    return Codec(encode, "jpeg", "ycbcr", (2, 2))


def jpeg2000_codec() -> Codec:
    """Return the codec of Aperio's compression 33005: RGB in a JPEG 2000 codestream."""

    def encode(tile: Picture) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(tile, level=J2K_PSNR, codecformat="j2k"))

    return Codec(encode, "aperio_jp2000_rgb", "rgb")


def write_pyramid(
    path: Path, rows: Iterator[Picture], side_px: int, codec: Codec, *, aperio: bool = False
) -> Path:
    """Write a tiled pyramid of square levels, halved down to at most 1024 pixels."""
    levels = [side_px]
    while levels[-1] > 1024:
        levels.append(levels[-1] // 2)
    encoded: list[list[bytes]] = [[] for _ in levels]
    _encode_rows(rows, codec, encoded)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for side, tiles in zip(levels, encoded, strict=True):
            writer.write(
                iter(tiles),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                resolution=(1e4 / MPP * side / side_px,) * 2,
                resolutionunit="centimeter",
                description=SOFTWARE.format(w=side, h=side, mpp=MPP) if aperio else None,
                metadata=None,
                subfiletype=0 if side == side_px else 1,
                compression=codec.compression,
                photometric=codec.photometric,
                subsampling=codec.subsampling,
            )
    return path


def _encode_rows(rows: Iterator[Picture], codec: Codec, encoded: list[list[bytes]]) -> None:
    """Encode rows of a tile's height and, from pairs of them, the rows of the next level."""
    encoded, coarser = encoded[:1], encoded[1:]
    waiting: list[Picture] = []

    def halves() -> Iterator[Picture]:
        for row in rows:
            encoded[0].extend(_encode_row(row, codec))
            waiting.append(row)
            if len(waiting) == 2:
                yield _halved(np.concatenate(waiting))
                waiting.clear()
        if waiting:
            yield _halved(waiting[0])

    if coarser:
        _encode_rows(halves(), codec, coarser)
    else:
        for _ in halves():
            pass


def _encode_row(row: Picture, codec: Codec) -> Iterator[bytes]:
    height, width, _ = row.shape
    padded = np.pad(row, ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0)), mode="edge")
    for left in range(0, width, TILE_PX):
        yield codec.encode(np.ascontiguousarray(padded[:, left : left + TILE_PX]))


def _halved(picture: Picture) -> Picture:
    height, width = (side // 2 for side in picture.shape[:2])
    even = picture[: 2 * height, : 2 * width].astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
