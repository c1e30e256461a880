"""The number of independent spots behind a correlation."""

import numpy as np

from triplex_deploy.expression.effective_spots import effective_spots
from triplex_deploy.expression.metrics import gene_correlations
from triplex_deploy.expression.smoothing import smooth_spots

SIDE = 20
GRID = np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), axis=1).astype(np.int64)


def noise(seed: int, genes: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(GRID), genes))


def test_independent_spots_count_whole() -> None:
    found = effective_spots(noise(0, 50), noise(1, 50), GRID)
    assert np.median(found) > 0.95 * len(GRID)


def test_the_spread_of_correlations_of_smooth_noise_is_that_of_the_effective_number() -> None:
    first, second = (smooth_spots(smooth_spots(noise(seed, 400), GRID), GRID) for seed in (2, 3))
    found = effective_spots(first, second, GRID)
    by_spread = 1 + 1 / gene_correlations(first, second).var()
    assert 0.6 * by_spread < np.median(found) < 1.4 * by_spread
    assert by_spread < 0.3 * len(GRID)


def test_order_and_origin_of_spots_do_not_matter() -> None:
    first, second = (smooth_spots(noise(seed, 3), GRID) for seed in (4, 5))
    order = np.random.default_rng(6).permutation(len(GRID))
    found = effective_spots(first, second, GRID)
    again = effective_spots(first[order], second[order], GRID[order] + np.array([1000, -50]))
    np.testing.assert_allclose(again, found, rtol=1e-9)


def test_spots_of_a_line_far_apart_and_of_one_value() -> None:
    line = np.stack([np.zeros(8), np.arange(8)], axis=1).astype(np.int64)
    values = np.arange(8.0)[:, None]
    assert 1 <= effective_spots(values, values, line)[0] < 8
    far = line * 10_000
    assert effective_spots(values, values, far).tolist() == [8.0]
    assert effective_spots(np.ones((8, 1)), values, line).tolist() == [8.0]
