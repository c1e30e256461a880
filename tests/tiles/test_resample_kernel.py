import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import TilingError
from triplex_deploy.tiles.kernels import resample
from triplex_deploy.tiles.weights import AxisWeights, area_weights, bilinear_weights


def area_matrix(count, step, source_px):
    """Row o holds the share of every source pixel in output pixel o."""
    matrix = np.zeros((count, source_px))
    for output, pixel in np.ndindex(count, source_px):
        low, high = output * step, min((output + 1) * step, source_px)
        matrix[output, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel)) / (high - low)
    return matrix


def bilinear_matrix(count, step, source_px):
    matrix = np.zeros((count, source_px))
    for output in range(count):
        position = min(max((output + 0.5) * step - 0.5, 0), source_px - 1)
        for pixel in range(source_px):
            matrix[output, pixel] = max(0.0, 1 - abs(position - pixel))
    return matrix


def weights(start, count, weight):
    return AxisWeights(
        np.array(start, np.int64), np.array(count, np.int64), np.array(weight, np.float32)
    )


def dense(axis, source_px):
    matrix = np.zeros((len(axis.start), source_px))
    for output, (start, count) in enumerate(zip(axis.start, axis.count, strict=True)):
        matrix[output, start : start + count] = axis.weight[output, :count]
    return matrix


def test_area_weights_of_a_step_of_two_and_a_half():
    axis = area_weights(0, 2, 2.5, 5)
    assert axis.start.tolist() == [0, 2]
    assert axis.count.tolist() == [3, 3]
    expected = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    np.testing.assert_allclose(axis.weight, expected, rtol=1e-6)


def test_bilinear_weights_continue_the_outermost_pixel():
    axis = bilinear_weights(0, 4, 0.5, 2)
    assert axis.start.tolist() == [0, 0, 0, 1]
    assert axis.count.tolist() == [2, 2, 2, 1]
    expected = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [1, 0]])
    np.testing.assert_allclose(axis.weight, expected)


def test_area_weights_do_not_reach_beyond_the_last_pixel():
    axis = area_weights(3, 2, 2.0, 7)  # the slide's level is a pixel or more short
    assert axis.start.tolist() == [6, 6]
    assert axis.count.tolist() == [1, 1]
    assert axis.weight[:, 0].tolist() == [1, 1]


@given(
    source_px=st.integers(1, 40), step=st.floats(1.0, 9.0), first=st.integers(0, 5), data=st.data()
)
def test_area_weights_equal_the_reference_from_any_start(source_px, step, first, data):
    total = int(source_px / step)
    first = min(first, total)
    count = data.draw(st.integers(0, total - first))
    expected = area_matrix(total, step, source_px)[first : first + count]
    actual = dense(area_weights(first, count, step, source_px), source_px)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@given(source_px=st.integers(1, 20), step=st.floats(0.5, 1.0))
def test_bilinear_weights_equal_the_reference(source_px, step):
    count = int(source_px / step)
    actual = dense(bilinear_weights(0, count, step, source_px), source_px)
    np.testing.assert_allclose(actual, bilinear_matrix(count, step, source_px), atol=1e-6)


def test_a_two_by_two_mean_is_rounded_half_up():
    block = np.array([[[0, 0, 255], [1, 0, 255]], [[1, 0, 255], [0, 1, 255]]], np.uint8)
    axis = area_weights(0, 1, 2.0, 2)
    assert resample(block, axis, axis).tolist() == [[[1, 0, 255]]]


@settings(deadline=None)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    step=st.floats(1.0, 6.0),
    seed=st.integers(0, 99),
)
def test_area_averages_equal_the_reference_within_one_level(height, width, step, seed):
    block = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = int(height / step), int(width / step)
    small = resample(
        block,
        area_weights(0, rows, step, height),
        area_weights(0, columns, step, width),
    )
    expected = np.einsum(
        "oh,hwc,pw->opc", area_matrix(rows, step, height), block, area_matrix(columns, step, width)
    )
    assert np.abs(small - expected).max(initial=0) <= 0.501


def test_a_constant_image_stays_constant():
    block = np.full((50, 60, 3), 255, np.uint8)
    small = resample(block, area_weights(0, 14, 3.51, 50), area_weights(0, 17, 3.51, 60))
    assert (small == 255).all()


def test_sums_beyond_a_byte_are_clipped():
    block = np.full((1, 1, 3), 200, np.uint8)
    twice, minus = weights([0], [1], [[2.0]]), weights([0], [1], [[-1.0]])
    once = weights([0], [1], [[1.0]])
    assert resample(block, twice, once).tolist() == [[[255, 255, 255]]]
    assert resample(block, once, minus).tolist() == [[[0, 0, 0]]]


BLOCK = np.zeros((4, 5, 3), np.uint8)
FIT = weights([0, 1], [2, 2], [[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("block", "rows", "columns", "message"),
    [
        (BLOCK.astype(np.float32), FIT, FIT, "block: dtype"),
        (BLOCK[:, ::2], FIT, FIT, "block: strides"),
        (BLOCK, weights([3], [2], [[0.5, 0.5]]), FIT, "rows: weights reach outside"),
        (BLOCK, FIT, weights([4], [2], [[0.5, 0.5]]), "columns: weights reach outside"),
        (BLOCK, weights([-1], [2], [[0.5, 0.5]]), FIT, "rows: weights reach outside"),
        (BLOCK, weights([2**63 - 1], [2], [[0.5, 0.5]]), FIT, "rows: weights reach outside"),
        (BLOCK, weights([0], [3], [[0.5, 0.5]]), FIT, "rows.count: not within the 2 weights"),
        (BLOCK, weights([0], [-1], [[0.5, 0.5]]), FIT, "rows.count: not within"),
        (BLOCK, weights([0], [1, 1], [[1.0]]), FIT, "rows.count: shape"),
        (BLOCK, weights([0], [1], [[1.0], [1.0]]), FIT, "rows.weight: shape"),
        (
            BLOCK,
            AxisWeights(FIT.start, FIT.count, FIT.weight.astype(float)),
            FIT,
            "rows.weight",
        ),
        (
            BLOCK,
            AxisWeights(FIT.start.astype(np.int32), FIT.count, FIT.weight),
            FIT,
            "rows.sta",
        ),
        (
            BLOCK,
            AxisWeights(FIT.start[::-1], FIT.count, FIT.weight),
            FIT,
            "rows.start: strides",
        ),
    ],
)
def test_unfit_arguments_are_refused(block, rows, columns, message):
    with pytest.raises(TilingError, match=message):
        resample(block, rows, columns)
