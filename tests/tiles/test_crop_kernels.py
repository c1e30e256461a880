import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.kernels import COORDINATE_LIMIT, crop_neighborhoods, crop_tiles

BLOCK = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)  # 3 wide, 2 high


def crop_reference(block, origin_xy, tile_px):
    tile = np.zeros((tile_px, tile_px, 3), np.uint8)
    for row in range(tile_px):
        for column in range(tile_px):
            x, y = origin_xy[0] + column, origin_xy[1] + row
            if 0 <= x < block.shape[1] and 0 <= y < block.shape[0]:
                tile[row, column] = block[y, x]
    return tile


def origins(*xy):
    return np.array(xy, np.int64).reshape(-1, 2)


def random_block(seed, height, width):
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


near = st.integers(-12, 24)
anywhere = near | st.integers(-COORDINATE_LIMIT, COORDINATE_LIMIT)


def test_a_tile_inside_is_copied_and_one_across_the_corner_is_padded_with_zeros():
    tiles = crop_tiles(BLOCK, origins((1, 0), (-1, 1), (2, -1)), 2)
    assert tiles[0].tolist() == [[[3, 4, 5], [6, 7, 8]], [[12, 13, 14], [15, 16, 17]]]
    assert tiles[1].tolist() == [[[0, 0, 0], [9, 10, 11]], [[0, 0, 0], [0, 0, 0]]]
    assert tiles[2].tolist() == [[[0, 0, 0], [0, 0, 0]], [[6, 7, 8], [0, 0, 0]]]


@settings(deadline=None)
@given(
    height=st.integers(0, 12),
    width=st.integers(0, 12),
    tile_px=st.integers(1, 9),
    xy=st.lists(st.tuples(anywhere, anywhere), max_size=6),
    threads=st.integers(1, 4),
)
def test_crops_equal_the_pixel_by_pixel_reference(height, width, tile_px, xy, threads):
    block = random_block(0, height, width)
    tiles = crop_tiles(block, origins(*xy), tile_px, threads=threads)
    assert tiles.shape == (len(xy), tile_px, tile_px, 3)
    for tile, origin in zip(tiles, xy, strict=True):
        np.testing.assert_array_equal(tile, crop_reference(block, origin, tile_px))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), threads=st.integers(1, 4), tile_px=st.integers(1, 6))
def test_neighborhoods_equal_the_reference_and_masked_tiles_are_zero(seed, threads, tile_px):
    rng = np.random.default_rng(seed)
    block, n = random_block(seed, 11, 14), int(rng.integers(0, 4))
    origin_xy = rng.integers(-8, 16, (n, 25, 2))
    mask = rng.random((n, 25)) < 0.6
    tiles = crop_neighborhoods(block, origin_xy, mask, tile_px, threads=threads)
    for spot, neighbor in np.ndindex(n, 25):
        expected = crop_reference(block, origin_xy[spot, neighbor], tile_px)
        np.testing.assert_array_equal(tiles[spot, neighbor], expected * mask[spot, neighbor])


def test_out_is_filled_wholly_and_returned():
    out = np.full((1, 2, 2, 3), 99, np.uint8)
    assert crop_tiles(BLOCK, origins((50, 50)), 2, out=out) is out
    assert not out.any()


def test_a_read_only_block_can_be_cropped():
    block = BLOCK.copy()
    block.flags.writeable = False
    assert crop_tiles(block, origins((0, 0)), 1)[0].tolist() == [[[0, 1, 2]]]


def read_only(shape):
    array = np.zeros(shape, np.uint8)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("block", "xy", "tile_px", "options", "message"),
    [
        (BLOCK.tolist(), origins((0, 0)), 2, {}, "block: list, not an array"),
        (BLOCK.astype(np.int8), origins((0, 0)), 2, {}, "block: dtype int8; convert to uint8"),
        (BLOCK[..., :2].copy(), origins((0, 0)), 2, {}, r"block: shape \(2, 3, 2\)"),
        (BLOCK[0], origins((0, 0)), 2, {}, r"block: shape \(3, 3\)"),
        (BLOCK[:, ::2], origins((0, 0)), 2, {}, "block: strides"),
        (BLOCK[::-1], origins((0, 0)), 2, {}, "block: strides"),
        (BLOCK, origins((0, 0)).astype(np.int32), 2, {}, "origin_xy: dtype int32"),
        (BLOCK, np.zeros((2, 3), np.int64), 2, {}, r"origin_xy: shape \(2, 3\)"),
        (BLOCK, np.zeros((4, 2), np.int64)[::2], 2, {}, "origin_xy: strides"),
        (BLOCK, origins((COORDINATE_LIMIT + 1, 0)), 2, {}, "origin_xy: pixel coordinates beyond"),
        (BLOCK, origins((0, -(2**63))), 2, {}, "origin_xy: pixel coordinates beyond"),
        (BLOCK, origins((0, 0)), 0, {}, "tile_px=0: out of range"),
        (BLOCK, origins((0, 0)), 2, {"threads": 0}, "threads=0: out of range"),
        (BLOCK, origins((0, 0)), 2, {"out": np.zeros((2, 2, 2, 3), np.uint8)}, "out: shape"),
        (BLOCK, origins((0, 0)), 2, {"out": np.zeros((1, 2, 2, 3), np.int8)}, "out: dtype"),
        (
            BLOCK,
            origins((0, 0)),
            1,
            {"out": np.zeros((1, 1, 1, 6), np.uint8)[..., ::2]},
            "out: str",
        ),
        (
            BLOCK,
            origins((0, 0)),
            2,
            {"out": read_only((1, 2, 2, 3))},
            "out: the array is read-only",
        ),
        (BLOCK, origins((0, 0)), 1, {"out": BLOCK[:1, :1][None]}, "out: shares memory"),
    ],
)
def test_unfit_arguments_are_refused(block, xy, tile_px, options, message):
    with pytest.raises(TilingError, match=message):
        crop_tiles(block, xy, tile_px, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": BLOCK.astype(np.float32)}, "block: dtype float32"),
        ({"origin_xy": np.zeros((1, 24, 2), np.int64)}, "origin_xy: shape"),
        ({"origin_xy": np.full((1, 25, 2), 2**62)}, "origin_xy: pixel coordinates beyond"),
        ({"mask": np.ones((1, 25), np.uint8)}, "mask: dtype uint8; convert to bool"),
        ({"mask": np.ones((2, 25), np.bool_)}, "mask: shape"),
        ({"mask": np.ones((25, 1), np.bool_).T[:, ::-1]}, "mask: strides"),
        ({"tile_px": -1}, "tile_px=-1"),
        ({"threads": -1}, "threads=-1"),
        ({"out": np.zeros((1, 25, 2, 3, 3), np.uint8)}, "out: shape"),
    ],
)
def test_unfit_neighborhood_arguments_are_refused(change, message):
    arguments = {
        "block": BLOCK,
        "origin_xy": np.zeros((1, 25, 2), np.int64),
        "mask": np.ones((1, 25), np.bool_),
        "tile_px": 2,
    }
    with pytest.raises(TilingError, match=message):
        crop_neighborhoods(**(arguments | change))
