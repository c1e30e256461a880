"""Hold a line for each gene that takes a model's predictions to calibrated ones.

How the lines are fitted is in docs/models.md, "Calibration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError

SLOPE_RANGE: Final = (0.2, 2.0)
"""Least and greatest slope. A slope above zero keeps the order of the spots, and so the
correlation."""
MAX_OFFSET: Final = 1e9
"""Greatest offset, far beyond every label."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A slope and an offset for each of G genes: calibrated = slope · predicted + offset.

    Raises:
        ContractError: The arrays do not fit together, or a value is out of range.
    """

    slope: NDArray[np.float32]
    """Slopes (G,), within ``SLOPE_RANGE``."""
    offset: NDArray[np.float32]
    """Offsets (G,), in the units of the labels."""

    def __post_init__(self) -> None:
        low, high = map(np.float32, SLOPE_RANGE)
        fits = (
            self.slope.ndim == 1
            and self.slope.shape == self.offset.shape
            and self.slope.dtype == self.offset.dtype == np.float32
        )
        if not fits:
            raise ContractError(
                f"calibration: slope {self.slope.dtype} {self.slope.shape}, offset "
                f"{self.offset.dtype} {self.offset.shape}; give float32, one of each per gene"
            )
        in_range = (self.slope >= low) & (self.slope <= high) & (abs(self.offset) <= MAX_OFFSET)
        if not in_range.all():  # NaN compares as False
            raise ContractError(
                f"calibration: a slope is not between {low:g} and {high:g}, or an offset is not "
                "finite; train again"
            )

    @property
    def n_genes(self) -> int:
        """Number of genes, G."""
        return len(self.slope)

    def apply(self, predicted: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the calibrated values of predictions (N, G)."""
        return predicted.astype(np.float64) * self.slope + self.offset

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return everything as arrays by name, for a file."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """Return the calibration of which ``arrays`` returned this.

        Raises:
            ContractError: An array is missing, unknown, or has another type or shape.
        """
        if set(arrays) != {"slope", "offset"}:
            raise ContractError("calibration: arrays are missing or unknown; train again")
        return cls(**arrays)
