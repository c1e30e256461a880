"""Predict spatial gene expression from whole-slide images with TRIPLEX bundles.

The public names load on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from triplex_deploy.version import __version__

if TYPE_CHECKING:
    from triplex_deploy.errors import TriplexError
    from triplex_deploy.outputs.prediction import Prediction
    from triplex_deploy.pipeline.options import PredictOptions
    from triplex_deploy.pipeline.predict import predict_slide
    from triplex_deploy.runtime.model import load_bundle
    from triplex_deploy.slides import open_slide
    from triplex_deploy.tiles.apeg import apeg_index

_HOME = {
    "PredictOptions": "triplex_deploy.pipeline.options",
    "Prediction": "triplex_deploy.outputs.prediction",
    "TriplexError": "triplex_deploy.errors",
    "apeg_index": "triplex_deploy.tiles.apeg",
    "load_bundle": "triplex_deploy.runtime.model",
    "open_slide": "triplex_deploy.slides",
    "predict_slide": "triplex_deploy.pipeline.predict",
}

__all__ = [
    "PredictOptions",
    "Prediction",
    "TriplexError",
    "__version__",
    "apeg_index",
    "load_bundle",
    "open_slide",
    "predict_slide",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
