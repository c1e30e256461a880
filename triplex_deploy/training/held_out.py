"""Predict held-out spots, and measure with them: docs/models.md, "Calibration".

Held out are the sections that chose the epoch, which are never fitted on. The test sections of the
fold are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.calibration import Calibration
from triplex_deploy.expression import LabelTransform
from triplex_deploy.expression.count_ceiling import correlation_ceiling
from triplex_deploy.expression.effective_spots import effective_spots
from triplex_deploy.expression.metrics import gene_correlations
from triplex_deploy.models import SpotModel
from triplex_deploy.reliability import GeneReliability
from triplex_deploy.training.fit_calibration import fit_calibration
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepared import LabeledSections

Z_95: Final = 1.959964
"""Half the width of a 95 % interval, in standard deviations."""
MIN_SPOTS: Final = 20
"""Fewest held-out spots that are measured."""
_LARGEST_PCC: Final = 0.9999
"""Greatest correlation whose Fisher z is taken."""


@dataclass(frozen=True, eq=False)
class HeldOutSection:
    """Predictions of a section that the model was not fitted on."""

    labels: NDArray[np.float32]
    """Labels (N, G)."""
    predicted: NDArray[np.float32]
    """Predictions (N, G), not calibrated."""
    grid_rc: NDArray[np.int64]
    """Array coordinates (N, 2): row, column."""

    @cached_property
    def independent(self) -> NDArray[np.float64]:
        """Effective number (G,) of spots."""
        return effective_spots(self.labels, self.predicted, self.grid_rc)


def predict_held_out(model: SpotModel, held_out: LabeledSections) -> list[HeldOutSection]:
    """Return the predictions of a model in evaluation mode for held-out sections."""
    return [
        HeldOutSection(labels, predict_section(model, section), section.measured.grid_rc)
        for section, labels in zip(held_out.sections, held_out.labels, strict=True)
    ]


def calibrate(sections: Sequence[HeldOutSection]) -> Calibration | None:
    """Return the calibration that held-out sections support; None if they have too few spots."""
    if sum(len(section.labels) for section in sections) < MIN_SPOTS:
        return None
    labels = np.concatenate([section.labels for section in sections])
    predicted = np.concatenate([section.predicted for section in sections])
    independent = np.stack([section.independent for section in sections]).sum(axis=0)
    return fit_calibration(labels, predicted, independent)


def measure_reliability(
    sections: Sequence[HeldOutSection],
    held_out: LabeledSections,
    transform: LabelTransform,
    calibration: Calibration,
) -> GeneReliability:
    """Return how well each gene is predicted at held-out spots.

    Args:
        sections: The predictions of the held-out sections.
        held_out: The same sections, with their counts.
        transform: How labels are made of counts.
        calibration: The calibration that was fitted to these sections.
    """
    n_spots = sum(len(section.labels) for section in sections)
    pcc, low, high = _correlations(sections)
    ceilings = np.stack(
        [
            correlation_ceiling(
                section.measured.panel_counts(held_out.panel),
                section.measured.grid_rc,
                section.measured.library,
                transform,
            )
            for section in held_out.sections
        ]
    )
    numbers = {
        "pcc": pcc,
        "pcc_low": low,
        "pcc_high": high,
        "rmse": np.sqrt(_mean_square(sections, calibration)),
        "raw_rmse": np.sqrt(_mean_square(sections)),
        "pcc_ceiling": _known_mean(ceilings),
    }
    return GeneReliability(
        **{name: values.astype(np.float32) for name, values in numbers.items()},
        n_spots=n_spots,
        n_sections=len(sections),
    )


def _correlations(sections: Sequence[HeldOutSection]) -> tuple[NDArray[np.float64], ...]:
    """Return the mean correlation (G,) over sections and the ends of its 95 % interval.

    Fisher's z of a section has the variance 1 / (effective spots - 3). If the sections differ by
    more than that, what they differ by counts.
    """
    found = np.stack([gene_correlations(s.labels, s.predicted) for s in sections])  # (S, G)
    known = ~np.isnan(found)
    count = known.sum(axis=0)
    pcc = _known_mean(found)
    z = np.arctanh(np.clip(found, -_LARGEST_PCC, _LARGEST_PCC))
    independent = np.stack([section.independent for section in sections])
    within = np.where(known, 1 / np.maximum(independent - 3, 1), 0).sum(axis=0)
    deviation = np.where(known, z - _known_mean(z), 0)
    between = (deviation**2).sum(axis=0) / np.maximum(count - 1, 1) * count
    error = np.sqrt(np.maximum(within, between)) / np.maximum(count, 1)
    center = np.arctanh(np.clip(pcc, -_LARGEST_PCC, _LARGEST_PCC))
    low, high = (np.tanh(center + sign * Z_95 * error) for sign in (-1, 1))
    return pcc, np.minimum(low, pcc), np.maximum(high, pcc)


def _mean_square(
    sections: Sequence[HeldOutSection], calibration: Calibration | None = None
) -> NDArray[np.float64]:
    """Return the mean squared error (G,) over all spots, of calibrated predictions if asked for."""
    errors = np.concatenate(
        [
            (s.predicted if calibration is None else calibration.apply(s.predicted)) - s.labels
            for s in sections
        ]
    )
    mean: NDArray[np.float64] = np.square(errors, dtype=np.float64).mean(axis=0)
    return mean


def _known_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (G,) over rows (S, G) without NaN; NaN where all are NaN."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
