import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.slides.slide import SegmentGrid
from triplex_deploy.tiles.kernels import COORDINATE_LIMIT, gather
from triplex_deploy.tiles.reading import Schedule, cover


def cut(picture, grid):
    """All segments of a picture (h, w, 3), garbage beyond its edge."""
    height, width, _ = picture.shape
    pad = (grid.rows * grid.height_px - height, grid.columns * grid.width_px - width)
    padded = np.pad(picture, ((0, pad[0]), (0, pad[1]), (0, 0)), constant_values=77)
    shape = (grid.rows, grid.height_px, grid.columns, grid.width_px, 3)
    return np.ascontiguousarray(padded.reshape(shape).swapaxes(1, 2)).reshape(
        -1, grid.height_px, grid.width_px, 3
    )


def window(picture, x, y, width, height):
    reach = max(abs(x), abs(y)) + width + height + max(picture.shape)
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)))
    return padded[y + reach : y + reach + height, x + reach : x + reach + width]


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    segment=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    side=st.integers(1, 80),
    origins=st.lists(st.tuples(st.integers(-90, 160), st.integers(-90, 160)), max_size=8),
    seed=st.integers(0, 99),
)
def test_windows_of_segments_equal_windows_of_the_picture(size, segment, side, origins, seed):
    picture = np.random.default_rng(seed).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8)
    grid = SegmentGrid.over(size, *segment)
    origin_xy = np.array(origins, np.int64).reshape(-1, 2)
    under = cover(origin_xy, np.array([side, side]), grid, size)
    out = np.full((len(origin_xy), side, side, 3), 9, np.uint8)
    gather(cut(picture, grid), under.segment, under.first_xy, origin_xy, size, out)
    for tile, (x, y) in zip(out, origins, strict=True):
        np.testing.assert_array_equal(tile, window(picture, x, y, side, side))


near = st.integers(-12, 24)
anywhere = near | st.integers(-COORDINATE_LIMIT, COORDINATE_LIMIT)


def test_a_tile_inside_is_copied_and_one_across_the_corner_is_padded_with_zeros():
    block = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)  # 3 wide, 2 high
    tiles = crop(block, [(1, 0), (-1, 1), (2, -1)], 2)
    assert tiles[0].tolist() == [[[3, 4, 5], [6, 7, 8]], [[12, 13, 14], [15, 16, 17]]]
    assert tiles[1].tolist() == [[[0, 0, 0], [9, 10, 11]], [[0, 0, 0], [0, 0, 0]]]
    assert tiles[2].tolist() == [[[0, 0, 0], [0, 0, 0]], [[6, 7, 8], [0, 0, 0]]]


@settings(deadline=None)
@given(
    height=st.integers(0, 12),
    width=st.integers(0, 12),
    tile_px=st.integers(1, 9),
    xy=st.lists(st.tuples(anywhere, anywhere), max_size=6),
)
def test_crops_of_one_block_equal_the_pixel_by_pixel_reference(height, width, tile_px, xy):
    block = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    block.flags.writeable = False
    for tile, origin in zip(crop(block, xy, tile_px), xy, strict=True):
        np.testing.assert_array_equal(tile, crop_reference(block, origin, tile_px))


def crop(block, xy, tile_px):
    origin_xy = np.array(xy, np.int64).reshape(-1, 2)
    slots = np.zeros((len(xy), 1, 1), np.int64)
    tiles = np.full((len(xy), tile_px, tile_px, 3), 9, np.uint8)
    limit_wh = (block.shape[1], block.shape[0])
    gather(block[None], slots, np.zeros_like(origin_xy), origin_xy, limit_wh, tiles)
    return tiles


def crop_reference(block, origin_xy, tile_px):
    tile = np.zeros((tile_px, tile_px, 3), np.uint8)
    for row in range(tile_px):
        for column in range(tile_px):
            x, y = origin_xy[0] + column, origin_xy[1] + row
            if 0 <= x < block.shape[1] and 0 <= y < block.shape[0]:
                tile[row, column] = block[y, x]
    return tile


def read_only(shape):
    array = np.zeros(shape, np.uint8)
    array.flags.writeable = False
    return array


SEGMENTS = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": np.full((1, 1, 1), 4)}, "slots: 4 is beyond the 4 segments"),
        ({"slots": np.zeros((2, 1, 1), np.int64)}, "slots: shape"),
        ({"first_xy": np.zeros((1, 2), np.int32)}, "first_xy: dtype"),
        ({"origin_xy": np.full((1, 2), 1 << 50)}, "origin_xy: pixel coordinates"),
        ({"segments": SEGMENTS[:, :, ::2]}, "segments: strides"),
        ({"segments": SEGMENTS[:, ::-1]}, "segments: strides"),
        ({"segments": SEGMENTS.tolist()}, "segments: list, not an array"),
        ({"segments": SEGMENTS.astype(np.int8)}, "segments: dtype int8; convert to uint8"),
        ({"segments": SEGMENTS[..., :2].copy()}, "segments: shape"),
        ({"segments": SEGMENTS[0]}, "segments: shape"),
        ({"origin_xy": np.zeros((1, 2), np.int32)}, "origin_xy: dtype int32"),
        ({"origin_xy": np.zeros((1, 3), np.int64)}, "origin_xy: shape"),
        ({"origin_xy": np.zeros((2, 1), np.int64).T[:, ::-1]}, "origin_xy: strides"),
        ({"origin_xy": np.array([[0, -(2**63)]])}, "origin_xy: pixel coordinates beyond"),
        ({"out": np.zeros((1, 4, 4, 3), np.int8)}, "out: dtype"),
        ({"out": np.zeros((1, 4, 4, 6), np.uint8)[..., ::2]}, "out: strides"),
        ({"out": read_only((1, 4, 4, 3))}, "out: pass a writable array"),
        ({"out": SEGMENTS[:1]}, "out: pass a writable array apart"),
    ],
)
def test_unfit_arguments_are_refused(change, message):
    arguments = {
        "segments": SEGMENTS,
        "slots": np.zeros((1, 1, 1), np.int64),
        "first_xy": np.zeros((1, 2), np.int64),
        "origin_xy": np.zeros((1, 2), np.int64),
        "limit_wh": (8, 8),
        "out": np.zeros((1, 4, 4, 3), np.uint8),
    }
    with pytest.raises(TilingError, match=message):
        gather(**arguments | change)


@settings(deadline=None)
@given(
    uses=st.lists(st.lists(st.integers(-1, 12), min_size=4, max_size=4), min_size=1, max_size=30),
    per_step=st.integers(1, 5),
    stripes=st.integers(1, 3),
    delay=st.integers(1, 4),
)
def test_every_segment_is_an_item_from_its_first_to_its_last_step(uses, per_step, stripes, delay):
    needed = np.array(uses, np.int64).reshape(-1, 2, 2)
    step = np.arange(len(needed)) // per_step
    stripe = np.arange(len(needed)) * stripes // len(needed)
    schedule = Schedule.of(needed, step, stripe)
    wanted = {
        (int(stripe[n]), int(segment)) for n, use in enumerate(needed) for segment in use[use >= 0]
    }
    items = list(zip(schedule.stripe.tolist(), schedule.segment.tolist(), strict=True))
    assert len(items) == len(set(items))
    assert set(items) == wanted
    held = np.zeros(step[-1] + delay + 1, np.int64)
    for item in range(len(items)):
        steps = step[(schedule.item_of_use == item).any(axis=(1, 2))]
        assert (schedule.first_step[item], schedule.last_step[item]) == (steps.min(), steps.max())
        held[steps.min() : steps.max() + delay] += 1
    assert schedule.peak(delay) == held.max()
    started = [item for s in range(step[-1] + 1) for item in schedule.starting(s)]
    assert started == list(range(len(items)))
