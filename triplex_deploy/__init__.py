"""Predict spatial gene expression from whole-slide images with model bundles.

The public names load on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from triplex_deploy.version import __version__

if TYPE_CHECKING:
    from triplex_deploy.api.convert import convert
    from triplex_deploy.api.evaluate import evaluate
    from triplex_deploy.api.export import export
    from triplex_deploy.api.import_checkpoint import import_checkpoint
    from triplex_deploy.api.prepare import prepare
    from triplex_deploy.api.run_demo import run_demo
    from triplex_deploy.api.run_study import run_study
    from triplex_deploy.api.train import train
    from triplex_deploy.api.verify import verify
    from triplex_deploy.cohort.predict_slides import iter_slides, predict_slides
    from triplex_deploy.errors import TriplexError
    from triplex_deploy.outputs.geojson import write_geojson
    from triplex_deploy.outputs.h5ad import read_prediction, write_h5ad
    from triplex_deploy.outputs.json_file import write_json
    from triplex_deploy.outputs.ome_tiff import write_ome_tiff
    from triplex_deploy.outputs.prediction import Prediction
    from triplex_deploy.outputs.report import write_report
    from triplex_deploy.outputs.spatial_data import write_spatialdata
    from triplex_deploy.outputs.table import write_csv, write_parquet
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
    "convert": "triplex_deploy.api.convert",
    "evaluate": "triplex_deploy.api.evaluate",
    "export": "triplex_deploy.api.export",
    "import_checkpoint": "triplex_deploy.api.import_checkpoint",
    "iter_slides": "triplex_deploy.cohort.predict_slides",
    "load_bundle": "triplex_deploy.runtime.model",
    "open_slide": "triplex_deploy.slides",
    "predict_slide": "triplex_deploy.pipeline.predict",
    "predict_slides": "triplex_deploy.cohort.predict_slides",
    "prepare": "triplex_deploy.api.prepare",
    "read_prediction": "triplex_deploy.outputs.h5ad",
    "run_demo": "triplex_deploy.api.run_demo",
    "run_study": "triplex_deploy.api.run_study",
    "train": "triplex_deploy.api.train",
    "verify": "triplex_deploy.api.verify",
    "write_csv": "triplex_deploy.outputs.table",
    "write_geojson": "triplex_deploy.outputs.geojson",
    "write_h5ad": "triplex_deploy.outputs.h5ad",
    "write_json": "triplex_deploy.outputs.json_file",
    "write_ome_tiff": "triplex_deploy.outputs.ome_tiff",
    "write_parquet": "triplex_deploy.outputs.table",
    "write_report": "triplex_deploy.outputs.report",
    "write_spatialdata": "triplex_deploy.outputs.spatial_data",
}

__all__ = [
    "PredictOptions",
    "Prediction",
    "TriplexError",
    "__version__",
    "apeg_index",
    "convert",
    "evaluate",
    "export",
    "import_checkpoint",
    "iter_slides",
    "load_bundle",
    "open_slide",
    "predict_slide",
    "predict_slides",
    "prepare",
    "read_prediction",
    "run_demo",
    "run_study",
    "train",
    "verify",
    "write_csv",
    "write_geojson",
    "write_h5ad",
    "write_json",
    "write_ome_tiff",
    "write_parquet",
    "write_report",
    "write_spatialdata",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
