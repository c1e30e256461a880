"""Exported single views and ablations, end to end, equal the plain loop over the spots."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.predicting.models import make_checkpoint
from tests.pipeline.reference import predict_one_by_one
from triplex_deploy import load_bundle, predict_slide
from triplex_deploy.contract import ModelConfig
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.models import write_checkpoint
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.apeg import position_index


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"model": "nem"}, {"fusion": "sum", "position": "peg", "use_target": False}],
    ids=str,
)
def test_exported_model_predicts_what_the_loop_predicts(
    options: dict[str, Any],
    slide_path: Path,
    slide_pixels: NDArray[np.uint8],
    some_spots: Spots,
    tmp_path: Path,
) -> None:
    config = ModelConfig(n_genes=5, neighbor_depth=1, global_depth=2, **options)
    write_checkpoint(make_checkpoint(config, 0.5), tmp_path / "model.ckpt")
    export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    centers = np.floor(some_spots.level0_xy + 1e-6).astype(np.int64)
    table = position_index(some_spots.grid_rc, config.position, config.apeg_kernel)
    with load_bundle(tmp_path / "bundle").open(device="cpu") as model:
        found = predict_slide(slide_path, model, PredictOptions(spots=some_spots)).expression
        wanted = predict_one_by_one(
            slide_pixels, centers, some_spots.grid_rc, model, {"apeg_index": table}
        )
    assert np.abs(found - wanted).max() <= 1e-5
    assert np.ptp(wanted, axis=0).min() > 1e-3
