"""A trained checkpoint, exported, predicts from the slide what training computed from its cache."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.contract import ModelConfig
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.models import read_checkpoint
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.train import train_fold


@pytest.mark.slow
def test_exported_model_predicts_what_training_measured(st_root: Path, tmp_path: Path) -> None:
    prepared = prepare_dataset(
        st_root, tmp_path / "prepared", PrepareOptions(layout="st", n_genes=3)
    )
    config = ModelConfig(n_genes=3, global_depth=2, global_mlp_ratio=1.0, neighbor_depth=1)
    options = TrainOptions(selection="test_fold", epochs=1)
    train_fold(prepared, prepared.folds[0], tmp_path / "run", config, options)
    checkpoint = tmp_path / "run" / "checkpoint.ckpt"
    export_bundle(checkpoint, tmp_path / "bundle")

    section = prepared.sections["A1"]
    spots = st_root / "ST-spotfiles" / "A1_selection.tsv"
    choice = PredictOptions(spots=spots, mpp=section.measured.slide_mpp)
    with load_bundle(tmp_path / "bundle").open(device="cpu") as model:
        prediction = predict_slide(section.measured.slide_path, model, choice)
    expected = predict_section(read_checkpoint(checkpoint).build_model(), section)
    order = [prediction.spot_names.index(name) for name in section.measured.spot_names]
    np.testing.assert_allclose(prediction.expression[order], expected, atol=1e-4)
    assert prediction.genes == read_checkpoint(checkpoint).genes
    assert prediction.run["tiles_encoded"] == len(section.features)
