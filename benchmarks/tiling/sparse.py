"""Write a slide of 60,000 x 60,000 pixels that is nearly empty on disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.tiling.mosaic import TILE_PX, Codec, drawn_tissue


def write_sparse(path: Path, width: int, height: int, codec: Codec) -> Path:
    """Write a level of tiles: four pictures in turn, then twelve tiles without data."""
    picture = drawn_tissue(2 * TILE_PX, 1)
    corners = [(y, x) for y in (0, TILE_PX) for x in (0, TILE_PX)]
    tiles = [
        codec.encode(np.ascontiguousarray(picture[y : y + TILE_PX, x : x + TILE_PX]))
        for y, x in corners
    ]
    count = -(-width // TILE_PX) * -(-height // TILE_PX)
    turns = itertools.cycle([*tiles, *[b""] * 12])
    tifffile.imwrite(
        path,
        itertools.islice(turns, count),
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        bigtiff=True,
        metadata=None,
        compression=codec.compression,
        photometric=codec.photometric,
        subsampling=codec.subsampling,
    )
    return path
