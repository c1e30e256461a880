"""The highest correlation that the noise of counts allows."""

import numpy as np

from triplex_deploy.expression import LabelTransform
from triplex_deploy.expression.count_ceiling import correlation_ceiling
from triplex_deploy.expression.metrics import gene_correlations

GRID = np.stack(np.divmod(np.arange(900), 30), axis=1).astype(np.int64)
PLAIN = LabelTransform(library="none", log="none", smoothing="none")


def counts(mean: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Poisson counts (N, 40), and their rates, which vary by a third of the mean."""
    rng = np.random.default_rng(seed)
    rate = np.maximum(mean * (1 + rng.standard_normal((900, 40)) / 3), 0)
    return rng.poisson(rate), rate


def test_it_is_the_correlation_of_the_counts_with_their_rates() -> None:
    for mean in (1.0, 5.0, 50.0):
        drawn, rate = counts(mean, 1)
        ceiling = correlation_ceiling(drawn, GRID, drawn.sum(axis=1), PLAIN)
        truth = gene_correlations(drawn, rate)
        assert abs(float(np.mean(ceiling - truth))) < 0.05
        assert np.all((ceiling >= 0) & (ceiling <= 1))


def test_more_molecules_allow_more() -> None:
    for transform in (LabelTransform(), LabelTransform(library="all")):
        found = []
        for mean in (0.5, 5.0, 50.0):
            drawn, _ = counts(mean, 2)
            ceilings = correlation_ceiling(drawn, GRID, drawn.sum(axis=1) + 100, transform)
            found.append(float(np.mean(ceilings)))
        assert found == sorted(found)


def test_counts_without_signal_allow_little_and_those_with_fractions_are_not_split() -> None:
    flat = np.random.default_rng(3).poisson(5, (900, 20))
    assert np.median(correlation_ceiling(flat, GRID, flat.sum(axis=1), PLAIN)) < 0.3
    assert np.isnan(correlation_ceiling(flat + 0.5, GRID, flat.sum(axis=1), PLAIN)).all()
    none = np.zeros((900, 1))
    assert np.isnan(correlation_ceiling(none, GRID, none[:, 0], PLAIN)).all()


def test_the_same_counts_give_the_same_numbers() -> None:
    drawn, _ = counts(5.0, 4)
    first = correlation_ceiling(drawn, GRID, drawn.sum(axis=1), PLAIN)
    again = correlation_ceiling(drawn, GRID, drawn.sum(axis=1), PLAIN)
    np.testing.assert_array_equal(first, again)
