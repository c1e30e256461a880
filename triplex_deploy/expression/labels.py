"""Turn raw counts into labels. Every step is an option, which the checkpoint stores.

The defaults are those of the paper (docs/models.md, "Label transform"): library size over the
predicted genes, 10,000 counts per spot, log10 with pseudocount 1, then the mean of the 3x3 window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression.smoothing import WINDOWS, smooth_spots

LIBRARIES: Final = ("panel", "all", "none")
"""Choices of ``library``."""
LOGS: Final = ("log10", "ln", "none")
"""Choices of ``log``."""


@dataclass(frozen=True)
class LabelTransform:
    """Turns counts into labels, in the order of the fields.

    Raises:
        ConfigError: A value is not known or out of range.
    """

    library: str = "panel"
    """What the counts of a spot are divided by: their sum over the predicted genes (``panel``) or
    over ``all`` genes, or ``none``."""
    scale: float = 10_000.0
    """Factor of the divided counts; not used if ``library`` is ``none``."""
    log: str = "log10"
    """Logarithm of 1 + value: ``log10``, ``ln`` or ``none``."""
    smoothing: str = "3x3"
    """Window of the mean over neighboring spots: ``3x3``, ``hex`` (Visium) or ``none``."""

    def __post_init__(self) -> None:
        for key, value, known in (
            ("library", self.library, LIBRARIES),
            ("log", self.log, LOGS),
            ("smoothing", self.smoothing, (*WINDOWS, "none")),
        ):
            if value not in known:
                raise ConfigError(f"label {key} {value!r}: not known; use {', '.join(known)}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"label scale {self.scale}: use a positive number, such as 10000")

    def __call__(
        self,
        counts: NDArray[Any],
        grid_rc: NDArray[np.int64],
        library_all: NDArray[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the labels (N, G) of one section; a spot without counts has label 0.

        Args:
            counts: Raw counts (N, G) of the predicted genes.
            grid_rc: Array coordinates (N, 2): row, column.
            library_all: Counts (N,) over all genes; needed for ``library="all"`` only.

        Raises:
            DatasetError: Counts are negative or not finite, or ``library_all`` is missing.
        """
        _check_counts(counts)
        values = self._normalize(counts.astype(np.float64), library_all)
        if self.log == "log10":
            values = np.log10(1 + values)
        elif self.log == "ln":
            values = np.log1p(values)
        if self.smoothing == "none":
            return values
        return smooth_spots(values, grid_rc, self.smoothing)

    def _normalize(
        self, counts: NDArray[np.float64], library_all: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        if self.library == "none":
            return counts
        if self.library == "panel":
            library = counts.sum(axis=1)
        elif library_all is None:
            raise DatasetError("labels: library 'all' needs the count of each spot over all genes")
        else:
            library = library_all.astype(np.float64)
        return counts / np.where(library > 0, library, 1)[:, None] * self.scale

    def to_dict(self) -> dict[str, Any]:
        """Return the steps as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabelTransform:
        """Return the transform of ``to_dict``.

        Raises:
            ConfigError: A key or value is not known.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"label transform: unknown keys {', '.join(unknown)}; remove them")
        return cls(**values)


def _check_counts(counts: NDArray[Any]) -> None:
    if counts.ndim != 2:
        raise DatasetError(f"counts: shape {counts.shape}; give spots x genes")
    if counts.size and not (np.isfinite(counts).all() and counts.min() >= 0):
        raise DatasetError("counts: some are negative or not finite; give raw counts")
