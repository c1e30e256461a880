"""What a file says about the prediction it was made from, so that it can be told from others."""

from __future__ import annotations

from typing import Any, Final

from triplex_deploy.files.strict_json import to_strict_json as to_strict_json
from triplex_deploy.outputs.prediction import Prediction

ORIGIN: Final = "triplex-deploy"
"""The name under which every file format keeps it."""


def origin(prediction: Prediction) -> dict[str, Any]:
    """Slide, geometry and facts of the run; lengths are in level-0 pixels unless named."""
    width, height = prediction.slide_size_wh
    return {
        "slide_name": prediction.slide_name,
        "slide_width_px": int(width),
        "slide_height_px": int(height),
        "slide_mpp": float(prediction.slide_mpp),
        "spot_diameter_px": float(prediction.spot_diameter_px),
        "run": prediction.run,
    }


def origin_json(prediction: Prediction) -> str:
    """``origin`` as one line of strict JSON."""
    return to_strict_json(origin(prediction))
