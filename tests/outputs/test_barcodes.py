"""Barcodes on their way from the spots file to the prediction."""

from pathlib import Path

import numpy as np
from PIL import Image

from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.model import Model


def test_barcodes_reach_the_prediction(model: Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    (tmp_path / "s.csv").write_text("barcode,pixel_x,pixel_y\nCCC-1,340,150\nAAA-1,150,150\n")
    spots = tmp_path / "s.csv"
    prediction = predict_slide(tmp_path / "s.png", model, PredictOptions(spots=spots, mpp=0.5))
    assert prediction.barcodes == ("CCC-1", "AAA-1")
    assert prediction.spot_names == ("1x0", "0x0")
    prediction.write_h5ad(tmp_path / "s.h5ad")
    assert read_prediction(tmp_path / "s.h5ad").barcodes == ("CCC-1", "AAA-1")
