"""Color ranges: genes of like spread can be compared, flat maps look flat."""

import numpy as np
import pytest

from triplex_deploy.outputs.color_range import comparable_ranges

STEPS = np.linspace(0, 1, 101)


def test_genes_of_like_spread_have_the_same_width() -> None:
    values = np.stack([4 + 2.5 * STEPS, -1 + 2.8 * STEPS], axis=1)
    first, last = comparable_ranges(values)
    assert np.allclose(last - first, 3.0)  # 2.4 and 2.688 between the percentiles
    assert np.allclose((first + last) / 2, [5.25, 0.4])  # around the middle of each gene


def test_the_range_covers_the_middle_of_the_values() -> None:
    values = np.stack([STEPS * width for width in (0.3, 1.0, 4.0, 7.5)], axis=1)
    first, last = comparable_ranges(values)
    assert (first <= np.quantile(values, 0.02, axis=0)).all()
    assert (last >= np.quantile(values, 0.98, axis=0)).all()


def test_a_gene_that_hardly_varies_is_not_stretched_over_all_colors() -> None:
    values = np.stack([STEPS, STEPS, 0.5 + 1e-4 * STEPS, np.full(101, 0.5)], axis=1)
    first, last = comparable_ranges(values)
    assert last[0] - first[0] == pytest.approx(1.0)
    assert last[2:] - first[2:] == pytest.approx([0.1, 0.1])


def test_a_range_of_values_from_zero_does_not_begin_below_zero() -> None:
    first, last = comparable_ranges(1.05 * STEPS[:, None])
    assert first[0] == 0.0
    assert last[0] == pytest.approx(1.5)


def test_missing_values_are_left_out() -> None:
    values = np.stack([np.where(STEPS < 0.5, np.nan, STEPS), np.full(101, np.nan)], axis=1)
    first, last = comparable_ranges(values)
    assert first[0] <= 0.51 < 0.99 <= last[0]
    assert np.isfinite([first, last]).all()


def test_a_slide_without_variation_has_ranges() -> None:
    first, last = comparable_ranges(np.zeros((3, 2)))
    assert (first.tolist(), last.tolist()) == ([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("n_spots", [1, 2, 3, 57])
def test_percentiles_are_numpys(n_spots: int) -> None:
    values = np.random.default_rng(n_spots).normal(size=(n_spots, 300)).astype(np.float32)
    values[0, 5] = np.nan
    first, last = comparable_ranges(values)
    middle = (first + last) / 2
    for gene in (0, 4, 5, 299):
        known = values[np.isfinite(values[:, gene]), gene].astype(np.float64)
        if not known.size:
            continue
        wanted = np.quantile(known, (0.02, 0.98)).mean()
        if known.min() < 0:  # otherwise the range is moved up to zero
            assert middle[gene] == pytest.approx(wanted, abs=1e-6)


def test_no_spots_have_ranges() -> None:
    first, last = comparable_ranges(np.zeros((0, 2), np.float32))
    assert (first.tolist(), last.tolist()) == ([0.0, 0.0], [1.0, 1.0])
