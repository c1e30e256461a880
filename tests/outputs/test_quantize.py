import numpy as np
import pytest

from triplex_deploy.outputs import quantize as module
from triplex_deploy.outputs.quantize import quantize


@pytest.mark.parametrize(("wide_values", "dtype"), [(10**9, np.uint16), (0, np.uint8)])
def test_values_come_back_within_half_a_step(
    monkeypatch: pytest.MonkeyPatch, wide_values: int, dtype: type
) -> None:
    monkeypatch.setattr(module, "WIDE_VALUES", wide_values)
    expression = np.random.default_rng(0).gamma(2, 3, (200, 5)).astype(np.float32)
    coded = quantize(expression)
    assert coded.codes.dtype == dtype
    span = coded.high - coded.low
    values = coded.low[:, None] + coded.codes / coded.top_code * span[:, None]
    assert np.abs(values.T - expression).max() <= span.max() / coded.top_code / 2 * 1.0001
    np.testing.assert_allclose(values.min(axis=1), expression.min(axis=0))
    np.testing.assert_allclose(values.max(axis=1), expression.max(axis=0))


def test_constant_and_missing_values_have_codes() -> None:
    nan = np.nan
    coded = quantize(np.array([[2, nan, nan], [2, 5, nan], [2, 7, nan]], np.float32))
    np.testing.assert_array_equal(coded.codes[0], [0, 0, 0])
    np.testing.assert_array_equal(coded.codes[1], [65535, 0, 65534])
    np.testing.assert_array_equal(coded.codes[2], [65535] * 3)
    np.testing.assert_array_equal(coded.low, [2, 5, 0])
    np.testing.assert_array_equal(coded.high, [2, 7, 0])


def test_no_spots_are_no_error() -> None:
    assert quantize(np.empty((0, 3), np.float32)).codes.shape == (3, 0)
