"""Raw counts from composition: a generative model whose every step is known.

1. A spot's rate for gene g is the mean of the gene programs over its cells,
   ``sum_c share[c] * RATES[g][c]``, times a factor of the patient per gene.
2. Its library grows with the square root of its cells and varies log-normally.
3. The expected count is library x rate / sum of rates; the count is negative binomial around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.composition import Composition
from triplex_deploy.demo.programs import GENES, rate_matrix

MEAN_LIBRARY: Final = 900.0
"""Counts over all genes of a spot with ``TYPICAL_CELLS``."""
TYPICAL_CELLS: Final = 100.0
LIBRARY_SPREAD: Final = 0.35
"""Standard deviation of a spot's log library, such as capture causes."""
PATIENT_SPREAD: Final = 0.15
"""Standard deviation of a patient's log factor per gene."""
DISPERSION: Final = 0.15
"""Variance of a count is m + DISPERSION m^2."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Of N spots and the genes of ``GENES``."""

    raw: NDArray[np.int64]  # (N, G) what a data set holds
    expected: NDArray[np.float64]  # (N, G) without noise


def patient_factors(seed: int, patient: str) -> NDArray[np.float64]:
    """What multiplies each gene's rate in every section of a patient, (G,)."""
    rng = np.random.default_rng([seed, *patient.encode()])
    return np.asarray(np.exp(rng.normal(0, PATIENT_SPREAD, len(GENES))), np.float64)


def draw_counts(
    composition: Composition, factors: NDArray[np.float64], rng: np.random.Generator
) -> Counts:
    """Counts of every spot; equal generators give equal counts."""
    abundance = composition.abundance()  # (N, C)
    cells = abundance.sum(axis=1, keepdims=True)
    rates = abundance / np.maximum(cells, 1) @ rate_matrix() * factors  # (N, G)
    spread = rng.normal(0, LIBRARY_SPREAD, (len(rates), 1))
    library = MEAN_LIBRARY * np.sqrt(cells / TYPICAL_CELLS) * np.exp(spread)
    expected = library * rates / np.maximum(rates.sum(axis=1, keepdims=True), 1e-9)
    noisy_rate = expected * rng.gamma(1 / DISPERSION, DISPERSION, expected.shape)
    return Counts(rng.poisson(noisy_rate), expected)
