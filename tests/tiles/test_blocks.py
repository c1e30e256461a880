import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.tiles.blocks import plan_blocks


def origins(*xy):
    return np.array(xy, np.int64).reshape(-1, 2)


def tile_grid(columns, rows, pitch=224):
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch


def area(blocks):
    return sum(block.xywh[2] * block.xywh[3] for block in blocks)


def test_a_contiguous_grid_is_read_without_overlap_whatever_its_phase():
    for start in ([0, 0], [57, -31]):
        blocks = list(plan_blocks(tile_grid(40, 20) + start, 3584))
        assert len(blocks) == 6
        assert area(blocks) == 40 * 20 * 224 * 224


def test_blocks_run_row_by_row():
    blocks = plan_blocks(tile_grid(4, 4), 448)
    assert [block.xywh for block in blocks] == [
        (0, 0, 448, 448),
        (448, 0, 448, 448),
        (0, 448, 448, 448),
        (448, 448, 448, 448),
    ]


def test_two_distant_tiles_of_a_cell_are_read_apart():
    blocks = list(plan_blocks(origins((0, 0), (3000, 2500)), 3584))
    assert [block.xywh for block in blocks] == [(0, 0, 224, 224), (3000, 2500, 224, 224)]


def test_two_near_tiles_are_read_together():
    blocks = list(plan_blocks(origins((0, 0), (300, 10)), 3584))
    assert [block.xywh for block in blocks] == [(0, 0, 524, 234)]


def test_a_diagonal_of_tiles_is_not_read_as_a_square():
    step = np.arange(16)[:, None] * 200
    blocks = list(plan_blocks(np.hstack([step, step]), 3584))
    assert area(blocks) < 0.35 * 3224 * 3224


def test_no_tiles_need_no_blocks():
    assert list(plan_blocks(origins(), 3584)) == []


@settings(deadline=None)
@given(
    xy=st.lists(
        st.tuples(st.integers(-5000, 5000), st.integers(-5000, 5000)), max_size=60, unique=True
    ),
    cell_tiles=st.integers(1, 16),
)
def test_every_tile_lies_in_exactly_one_block_and_blocks_stay_small(xy, cell_tiles):
    origins_xy = origins(*xy)
    blocks = list(plan_blocks(origins_xy, 224 * cell_tiles))
    seen = [int(index) for block in blocks for index in block.tile_index]
    assert sorted(seen) == list(range(len(xy)))
    for block in blocks:
        x, y, width, height = block.xywh
        inside = origins_xy[block.tile_index] - [x, y]
        assert (inside >= 0).all()
        assert (inside + 224 <= [width, height]).all()
        assert max(width, height) <= 224 * (cell_tiles + 1)
