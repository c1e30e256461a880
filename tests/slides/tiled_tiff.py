"""Small tiled slides with every kind of compressed tile, and damage to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

TILE_PX = 128
APERIO = "Aperio Image Library v12.0.0\n{w}x{h} |AppMag = 20|MPP = 0.5"


def picture(width: int, height: int, seed: int = 3) -> NDArray[np.uint8]:
    """Coarse color with a little noise, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 230, (height // 16 + 1, width // 16 + 1, 3))
    fine = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    return np.clip(fine + rng.normal(0, 8, fine.shape), 0, 255).astype(np.uint8)


def jpeg(tile: NDArray[np.uint8], subsampling: str = "420", rgb: bool = False) -> bytes:
    options: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": "RGB" if rgb else "YCBCR"}
    return bytes(imagecodecs.jpeg8_encode(tile, 85, subsampling=subsampling, **options))


def jpeg2000(tile: NDArray[np.uint8], ycbcr: bool = False) -> bytes:
    if ycbcr:
        tile = to_ycbcr(tile)
    options: dict[str, Any] = {"codecformat": "j2k", "mct": not ycbcr}
    return bytes(imagecodecs.jpeg2k_encode(tile, level=45, **options))


def to_ycbcr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    red, green, blue = np.moveaxis(rgb.astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    return np.clip(np.stack([luma, *chroma], axis=2) + 0.5, 0, 255).astype(np.uint8)


KINDS: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "jpeg 4:2:0": (
        jpeg,
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
        False,
    ),
    "jpeg 4:2:2": (
        lambda tile: jpeg(tile, "422"),
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 1)},
        False,
    ),
    "jpeg 4:4:4": (
        lambda tile: jpeg(tile, "444"),
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
        False,
    ),
    "svs jpeg": (
        jpeg,
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
        True,
    ),
    "svs jpeg rgb": (
        lambda tile: jpeg(tile, "444", rgb=True),
        {"compression": "jpeg", "photometric": "rgb"},
        True,
    ),
    "svs 33005": (jpeg2000, {"compression": "aperio_jp2000_rgb", "photometric": "rgb"}, True),
    "svs 33003": (
        lambda tile: jpeg2000(tile, ycbcr=True),
        {"compression": "aperio_jp2000_ycbc", "photometric": "rgb"},
        True,
    ),
}


def write_slide(
    path: Path,
    kind: str = "jpeg 4:2:0",
    sizes: Sequence[tuple[int, int]] = ((700, 500), (350, 250)),
    missing: Sequence[int] = (),
    bigtiff: bool = False,
    seed: int = 0,
) -> Path:
    """A pyramid of the given (width, height), without the tiles of level 0 in ``missing``."""
    encode, tags, aperio = KINDS[kind]
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for level, (width, height) in enumerate(sizes):
            tiles = [encode(tile) for tile in tiles_of(picture(width, height, seed=seed + level))]
            if level == 0:
                for index in missing:
                    tiles[index] = b""
            writer.write(
                iter(tiles),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                metadata=None,
                subfiletype=min(level, 1),
                description=APERIO.format(w=width, h=height) if aperio else None,
                **tags,
            )
    return path


def tiles_of(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX])
        for y in range(0, height, TILE_PX)
        for x in range(0, width, TILE_PX)
    ]


def tile_place(path: Path, index: int) -> tuple[int, int]:
    """Offset and length of a compressed tile of level 0."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0].aspage()
        return int(page.dataoffsets[index]), int(page.databytecounts[index])


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
