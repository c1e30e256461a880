"""Features of tiles, kept for analyses of the reader's own."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy.contract import config_from_dict
from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.slides import open_slide

OPTIONS = PredictOptions(save_features=True, all_tiles=True, batch_size=4)


def test_features_are_those_of_the_tile_at_the_spot(slide_path: Path) -> None:
    model = fake_model(fake_config())
    prediction = predict_slide(slide_path, model, OPTIONS)
    assert prediction.features is not None
    assert prediction.features.shape == (prediction.n_spots, 10)
    spot = prediction.n_spots // 2
    x, y = (int(side) - 112 for side in prediction.level0_xy[spot])
    with open_slide(slide_path) as slide:
        tile = slide.read(0, x, y, 224, 224)[None]
    alone = model.run("tile_encoder", {"tiles": tile})["features"][0]
    np.testing.assert_allclose(prediction.features[spot], alone, rtol=1e-5)


def test_features_are_in_the_h5ad_and_are_read_back(slide_path: Path, tmp_path: Path) -> None:
    prediction = predict_slide(slide_path, fake_model(fake_config()), OPTIONS)
    prediction.write_h5ad(tmp_path / "a.h5ad")
    table = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert table.obsm["X_tile"].dtype == np.float32
    np.testing.assert_array_equal(table.obsm["X_tile"], prediction.features)
    np.testing.assert_array_equal(
        read_prediction(tmp_path / "a.h5ad").features, prediction.features
    )


def test_without_the_option_there_are_none(slide_path: Path) -> None:
    prediction = predict_slide(slide_path, fake_model(fake_config()), PredictOptions(batch_size=4))
    assert prediction.features is None
    assert "X_tile" not in prediction.to_anndata().obsm


def test_a_model_without_frozen_features_says_so(slide_path: Path) -> None:
    model = fake_model(config_from_dict({"model": "st_net", "n_genes": 6}))
    with pytest.raises(ConfigError, match="save_features: ST-Net has no features of tiles"):
        predict_slide(slide_path, model, OPTIONS)
