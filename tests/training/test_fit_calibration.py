"""The lines of the calibration: least squares, as far as held-out spots support it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triplex_deploy.calibration import SLOPE_RANGE
from triplex_deploy.expression.metrics import gene_correlations
from triplex_deploy.training.fit_calibration import fit_calibration

GENES = 30


def spots(
    seed: int, n_spots: int, slope: float, noise: float, offset: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return labels and predictions (N, GENES) whose true line is ``slope`` and ``offset``."""
    rng = np.random.default_rng(seed)
    predicted = 2 + rng.standard_normal((n_spots, GENES))
    labels = offset + 2 + slope * (predicted - 2) + noise * rng.standard_normal(predicted.shape)
    return labels, predicted


def independent(n_spots: int) -> NDArray[np.float64]:
    return np.full(GENES, float(n_spots))


def test_many_spots_give_the_line_of_least_squares() -> None:
    labels, predicted = spots(0, 4000, slope=0.6, noise=0.1)
    lines = fit_calibration(labels, predicted, independent(4000))
    wanted = np.array([np.polyfit(p, y, 1) for p, y in zip(predicted.T, labels.T, strict=True)])
    np.testing.assert_allclose(lines.slope, wanted[:, 0], atol=3e-3)
    np.testing.assert_allclose(lines.offset, wanted[:, 1], atol=3e-2)


def test_genes_are_drawn_to_their_common_slope() -> None:
    labels, predicted = spots(1, 300, slope=0.6, noise=2.0)
    lines = fit_calibration(labels, predicted, independent(300))
    free = [np.polyfit(p, y, 1)[0] for p, y in zip(predicted.T, labels.T, strict=True)]
    assert np.std(lines.slope) < 0.5 * np.std(free)
    assert abs(float(lines.slope.mean()) - 0.6) < 0.1


def test_few_independent_spots_leave_the_slope_at_one() -> None:
    labels, predicted = spots(2, 60, slope=0.9, noise=3.0)
    lines = fit_calibration(labels, predicted, independent(6))
    np.testing.assert_allclose(lines.slope, 1, atol=0.02)


def test_predictions_of_noise_are_narrowed_to_the_least_slope_and_keep_their_order() -> None:
    labels, predicted = spots(3, 4000, slope=0.0, noise=1.0)
    lines = fit_calibration(labels, predicted, independent(4000))
    np.testing.assert_allclose(lines.slope, SLOPE_RANGE[0], rtol=1e-6)
    np.testing.assert_allclose(
        gene_correlations(labels, lines.apply(predicted)),
        gene_correlations(labels, predicted),
        atol=1e-6,
    )


def test_the_mean_of_held_out_spots_stays_where_it_is() -> None:
    labels, predicted = spots(4, 500, slope=0.5, noise=0.1, offset=0.5)
    lines = fit_calibration(labels, predicted, independent(500))
    np.testing.assert_allclose(lines.apply(predicted).mean(0), predicted.mean(0), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_spots=st.integers(3, 80),
    share=st.floats(0.05, 1),
    slope=st.floats(-2, 4),
    noise=st.floats(0, 5),
    offset=st.floats(-3, 3),
)
def test_the_error_at_the_spots_it_was_fitted_on_never_rises(
    seed: int, n_spots: int, share: float, slope: float, noise: float, offset: float
) -> None:
    labels, predicted = spots(seed, n_spots, slope, noise, offset)
    predicted[:, 0] = 1.5  # a gene that is predicted to be constant
    predicted[:, 1] *= 1e-6
    lines = fit_calibration(labels, predicted, independent(max(1, int(share * n_spots))))
    before = float(((predicted - labels) ** 2).mean())
    after = float(((lines.apply(predicted) - labels) ** 2).mean())
    assert after <= before * (1 + 1e-5) + 1e-9
