"""Define which genes each synthetic tissue compartment expresses, and how strongly.

The symbols are real, and in the compartments where a pathologist expects them. The rates are
invented.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

COMPARTMENTS: Final = ("gland", "tumor", "stroma", "immune", "front")
"""``front`` is stroma near tumor: a spot's neighborhood shows it, but its target tile does not."""

RATES: Final[dict[str, tuple[float, float, float, float, float]]] = {
    "GNAS": (0.4, 1.5, 0.1, 0.1, 0.1),
    "ERBB2": (0.2, 2.0, 0.1, 0.1, 0.1),
    "FASN": (0.2, 1.6, 0.1, 0.1, 0.1),
    "CLDN4": (1.2, 0.5, 0.1, 0.1, 0.1),
    "MUC1": (1.8, 0.3, 0.1, 0.1, 0.1),
    "KRT8": (1.0, 1.4, 0.1, 0.1, 0.1),
    "KRT18": (1.0, 1.1, 0.1, 0.1, 0.1),
    "KRT19": (1.6, 0.8, 0.1, 0.1, 0.1),
    "EPCAM": (1.2, 0.9, 0.1, 0.1, 0.1),
    "CD24": (0.8, 1.1, 0.1, 0.2, 0.1),
    "COL1A1": (0.2, 0.2, 3.0, 0.2, 6.0),
    "COL1A2": (0.2, 0.2, 2.5, 0.2, 4.0),
    "COL3A1": (0.2, 0.2, 2.5, 0.2, 3.5),
    "FN1": (0.1, 0.2, 0.6, 0.1, 4.0),
    "SPARC": (0.1, 0.2, 1.0, 0.1, 3.0),
    "VIM": (0.2, 0.3, 1.5, 1.0, 1.5),
    "ACTA2": (0.1, 0.1, 0.8, 0.1, 3.0),
    "TAGLN": (0.1, 0.1, 1.0, 0.1, 2.0),
    "CD74": (0.2, 0.3, 0.3, 3.0, 0.3),
    "B2M": (0.8, 0.6, 0.8, 1.8, 0.8),
    "HLA-A": (0.6, 0.4, 0.5, 1.3, 0.5),
    "HLA-B": (0.6, 0.4, 0.5, 1.4, 0.5),
    "HLA-DRA": (0.1, 0.2, 0.2, 2.0, 0.2),
    "IGKC": (0.1, 0.1, 0.3, 4.0, 0.1),
    "IGHG3": (0.1, 0.1, 0.2, 2.5, 0.1),
    "C1QA": (0.1, 0.2, 0.2, 0.7, 0.6),
    "APOE": (0.3, 0.3, 0.6, 0.6, 0.6),
    "FTL": (1.0, 1.2, 1.0, 1.0, 1.0),
    "FTH1": (1.0, 1.2, 1.0, 1.1, 1.0),
    "ACTB": (1.0, 1.0, 1.0, 1.2, 1.1),
}
"""Rate of each gene in each of ``COMPARTMENTS``."""

GENES: Final = tuple(RATES)


def rate_matrix() -> NDArray[np.float64]:
    """Return ``RATES`` as an array (compartments, genes)."""
    return np.array(list(RATES.values()), np.float64).T
