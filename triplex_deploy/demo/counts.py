"""Draw raw counts from a composition, with a generative model.

1. A spot's rate for gene g is the mean rate over its cells, ``sum_c share[c] * RATES[g][c]``, times
   a factor of the patient for the gene.
2. The spot's library grows with the square root of its number of cells, and varies log-normally.
3. The expected count is library x rate / sum of rates. The count is negative binomial around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.composition import Composition
from triplex_deploy.demo.programs import GENES, rate_matrix

MEAN_LIBRARY: Final = 900.0
"""Library of a spot with ``TYPICAL_CELLS``."""
TYPICAL_CELLS: Final = 100.0
"""Number of cells that ``MEAN_LIBRARY`` is for."""
LIBRARY_SPREAD: Final = 0.35
"""Standard deviation of the logarithm of a spot's library, for differences in capture."""
PATIENT_SPREAD: Final = 0.15
"""Standard deviation of the logarithm of a patient's factor for a gene."""
DISPERSION: Final = 0.15
"""The variance of a count with mean m is m + DISPERSION m^2."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of N spots and the G genes of ``GENES``."""

    raw: NDArray[np.int64]
    """(N, G) counts of the data set."""
    expected: NDArray[np.float64]
    """(N, G) counts without noise."""


def patient_factors(seed: int, patient: str) -> NDArray[np.float64]:
    """Return the factors (G,) of a patient, by which the rates in all sections are multiplied."""
    rng = np.random.default_rng([seed, *patient.encode()])
    return np.asarray(np.exp(rng.normal(0, PATIENT_SPREAD, len(GENES))), np.float64)


def draw_counts(
    composition: Composition, factors: NDArray[np.float64], rng: np.random.Generator
) -> Counts:
    """Draw the counts of every spot.

    Args:
        composition: What is under the spots.
        factors: Factor (G,) of the patient for each gene.
        rng: Source of the noise; equal generators give equal counts.
    """
    abundance = composition.abundance()  # (N, C)
    cells = abundance.sum(axis=1, keepdims=True)
    rates = abundance / np.maximum(cells, 1) @ rate_matrix() * factors  # (N, G)
    spread = rng.normal(0, LIBRARY_SPREAD, (len(rates), 1))
    library = MEAN_LIBRARY * np.sqrt(cells / TYPICAL_CELLS) * np.exp(spread)
    expected = library * rates / np.maximum(rates.sum(axis=1, keepdims=True), 1e-9)
    noisy_rate = expected * rng.gamma(1 / DISPERSION, DISPERSION, expected.shape)
    return Counts(rng.poisson(noisy_rate), expected)
