"""Describe the units of predicted expression in words, from the label transform of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

SHARES: Final = {
    "panel": "share of the counts of the model's genes",
    "all": "share of all counts",
}
"""What counts are divided by, by ``library``."""
LOGS: Final = {"log10": "log10(1 + {})", "ln": "ln(1 + {})"}
"""Form of the logarithm, by ``log``."""
LOG_BASES: Final = {"log10": 10.0, "ln": math.e}
"""Base of the logarithm, by ``log``."""
WINDOWS: Final = {"3x3": "mean of 3 × 3 spots", "hex": "mean of a spot and the six around it"}
"""Window of the average, by ``smoothing``."""
UNKNOWN: Final = "units of the model's training data"
"""Units of a prediction whose model does not record its label transform."""


def describe_units(label_transform: Any) -> str:
    """Return the label transform of a model as a phrase; empty if it is not recorded.

    The paper's is ``log10(1 + 10,000 × share of the counts of the model's genes), mean of 3 × 3
    spots``.
    """
    if not isinstance(label_transform, Mapping) or not label_transform:
        return ""
    share = SHARES.get(str(label_transform.get("library")))
    counts = f"{_number(label_transform.get('scale', 1))} × {share}" if share else "counts"
    value = LOGS.get(str(label_transform.get("log")), "{}").format(counts)
    window = WINDOWS.get(str(label_transform.get("smoothing")))
    return f"{value}, {window}" if window else value


def log_base(label_transform: Any) -> float | None:
    """Return the base of the logarithm of the values; None if there is none or it is unknown."""
    if not isinstance(label_transform, Mapping):
        return None
    return LOG_BASES.get(str(label_transform.get("log")))


def _number(scale: Any) -> str:
    """Return a factor with commas, without decimals that say nothing."""
    try:
        number = float(scale)
    except (TypeError, ValueError):
        return str(scale)
    return f"{number:,.0f}" if number.is_integer() else f"{number:,g}"
