"""Predict spatial gene expression from whole-slide images with TRIPLEX bundles.

The public names load on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Prediction": "triplex_deploy.outputs.prediction",
    "TriplexError": "triplex_deploy.errors",
    "apeg_index": "triplex_deploy.tiles.apeg",
    "load_bundle": "triplex_deploy.runtime.model",
    "open_slide": "triplex_deploy.slides",
    "predict_slide": "triplex_deploy.pipeline.predict",
}

__all__ = ["Prediction", "TriplexError", "apeg_index", "load_bundle", "open_slide", "predict_slide"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
