"""Tiles of a batch in the order in which graphs take them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triplex_deploy.pipeline.encode import _in_order, _side_by_side


@given(st.lists(st.sampled_from([(0, 1), (1, 0), (1, 1)]), min_size=1))
def test_tiles_of_each_graph_lie_together(wanted: list[tuple[int, int]]) -> None:
    sets = [np.array(column, bool) for column in zip(*wanted, strict=True)]
    order = _side_by_side(np.array(sets))
    assert sorted(order) == list(range(len(wanted)))
    for one in sets:
        places = np.flatnonzero(one[order])
        assert (np.diff(places) == 1).all()


def test_tiles_all_graphs_take_keep_their_order() -> None:
    everything = np.ones(5, bool)
    for sets in ([everything], [everything, everything]):
        assert _side_by_side(np.array(sets)).tolist() == [0, 1, 2, 3, 4]


def test_three_sets_are_refused() -> None:
    with pytest.raises(AssertionError, match="three graphs"):
        _side_by_side(np.ones((3, 2), bool))


def test_tiles_are_copied_only_if_their_order_changes() -> None:
    tiles = np.arange(12, dtype=np.uint8).reshape(3, 4)
    both, first = np.ones(3, bool), np.array([False, True, True])
    assert _in_order(tiles, _side_by_side(np.array([both, both]))) is tiles
    moved = _in_order(tiles, _side_by_side(np.array([first, both])))
    np.testing.assert_array_equal(moved, tiles[[1, 2, 0]])
