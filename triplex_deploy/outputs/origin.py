"""Describe the source of a converted file, so that the file can be recognized later."""

from __future__ import annotations

from typing import Any, Final

from triplex_deploy.files.strict_json import to_strict_json
from triplex_deploy.outputs.drawable import Drawable
from triplex_deploy.outputs.held_out import HELD_OUT, held_out_json

ORIGIN: Final = "triplex-deploy"
"""Name under which every file format keeps the description."""


def origin(prediction: Drawable) -> dict[str, Any]:
    """Return the slide, its geometry, the units, the genes' reliability and the run's metadata."""
    width, height = prediction.slide_size_wh
    return {
        "slide_name": prediction.slide_name,
        "slide_width_px": int(width),
        "slide_height_px": int(height),
        "slide_mpp": float(prediction.slide_mpp),
        "spot_diameter_px": float(prediction.spot_diameter_px),
        "units": prediction.units,
        HELD_OUT: held_out_json(prediction.reliability),
        "run": prediction.run,
    }


def origin_json(prediction: Drawable) -> str:
    """Return ``origin`` as one line of strict JSON."""
    return to_strict_json(origin(prediction))
