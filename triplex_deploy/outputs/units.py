"""Describe the units of predicted expression in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LIBRARIES: Final = {"panel": "of the model's genes", "all": "of all genes", "none": ""}
"""Genes over which counts are divided, by ``library``."""
LOGS: Final = {"log10": "log₁₀(1 + {})", "ln": "ln(1 + {})", "none": "{}"}
"""Form of the logarithm, by ``log``."""
WINDOWS: Final = {
    "3x3": "mean over each spot and the eight around it",
    "hex": "mean over each spot and the six around it",
    "none": "",
}
"""Window of the average, by ``smoothing``."""


def describe_units(label_transform: Any) -> str:
    """Return the label transform of a model as a phrase; empty if it is not recorded."""
    if not isinstance(label_transform, Mapping) or not label_transform:
        return ""
    library = LIBRARIES.get(str(label_transform.get("library")), "")
    counts = "counts"
    if library:
        counts = f"counts per {float(label_transform.get('scale', 1)):,.0f} {library}"
    log = LOGS.get(str(label_transform.get("log")), "{}").format(counts)
    window = WINDOWS.get(str(label_transform.get("smoothing")), "")
    return f"{log}, {window}" if window else log
