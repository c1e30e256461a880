"""Compare the copying kernels with this machine's memcpy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bench.script import script_case, time_call
from triplex_deploy.slides import _pixels
from triplex_deploy.tiles import _kernels

SIDE_TILES = 6
"""The ratio is that of a batch of 36 tiles, 5 MB."""
OTHER_SIDES = (4, 16)
TILE_PX = 224
REPEATS = 25
_READ_REGION = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_int64,
)
"""Signature of ``openslide_read_region``."""


def crop_over_memcpy(side_tiles: int = SIDE_TILES) -> tuple[float, dict[str, float]]:
    """Return bytes of tiles cut per second over bytes copied per second, one thread each."""
    side = side_tiles * TILE_PX
    block = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    first = np.arange(side_tiles) * TILE_PX
    origins = np.stack(np.meshgrid(first, first), axis=-1).reshape(-1, 2).astype(np.int64)
    tiles = np.empty((len(origins), TILE_PX, TILE_PX, 3), np.uint8)
    segments, slots = block[None], np.zeros((len(origins), 1, 1), np.int64)
    first_xy = np.zeros_like(origins)
    crop_s, copy_s = _together(
        lambda: _kernels.gather(segments, slots, first_xy, origins, side, side, tiles),
        _memcpy(block, tiles),
    )
    gb = tiles.nbytes / 1e9
    return copy_s / crop_s, {"crop_gb_per_s": gb / crop_s, "memcpy_gb_per_s": gb / copy_s}


def other_batches() -> dict[str, float]:
    """Return the same ratio for batches of other sizes, by their number of tiles."""
    return {f"crop_over_memcpy_{n * n}_tiles": crop_over_memcpy(n)[0] for n in OTHER_SIDES}


def bgra_over_memcpy() -> tuple[float, dict[str, float]]:
    """Return bytes converted per second over bytes copied per second, reads and writes counted."""
    side = SIDE_TILES * TILE_PX
    argb = np.random.default_rng(0).integers(0, 1 << 24, (side, side), np.uint32)
    argb |= np.uint32(0xFF000000)
    rgb = np.empty((side, side, 3), np.uint8)
    moved = argb.nbytes + rgb.nbytes
    source, target = np.ones(moved // 2, np.uint8), np.empty(moved // 2, np.uint8)
    callback = _READ_REGION(lambda *_: None)  # the pixels are there already
    no_read = ctypes.cast(callback, ctypes.c_void_p).value or 0
    convert_s, copy_s = _together(
        lambda: _pixels.read_region(no_read, 0, argb, 0, 0, 0, rgb, 255, 255, 255),
        _memcpy(source, target),
    )
    gb = moved / 1e9
    return copy_s / convert_s, {
        "bgra_moved_gb_per_s": gb / convert_s,
        "memcpy_moved_gb_per_s": gb / copy_s,
    }


def _memcpy(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> Callable[[], object]:
    copy = ctypes.CDLL(None).memcpy
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return lambda: copy(target.ctypes.data, source.ctypes.data, source.nbytes)


def _together(work: Callable[[], object], reference: Callable[[], object]) -> tuple[float, float]:
    """Return the least CPU seconds of each, measured in turns under the same conditions."""
    times = [(_least_cpu_s(work), _least_cpu_s(reference)) for _ in range(4)]
    return min(pair[0] for pair in times), min(pair[1] for pair in times)


def _least_cpu_s(call: Callable[[], object]) -> float:
    """Return the least CPU seconds of several calls, after a call that does not count."""
    call()
    case = script_case("kernel", "copies")
    for _ in range(REPEATS):
        time_call(case, call)
    return case.cpu_s
