"""Make the small bundle, checkpoint, prepared folder, run and prediction that are damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.pipeline.fake_model import fake_config, fake_model
from tests.shared_cache import EXPORT, shared
from tests.standin_bundle import write_standin_bundle
from triplex_deploy.contract import ModelConfig
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.outputs.h5ad import write_h5ad
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide

DECISIVE = (*EXPORT, "training", "data", "outputs", "pipeline", "slides", "spots", "tiles", "demo")
"""Parts of the package that decide what the material holds."""


def shared_material() -> Path:
    """Return the folder of the material, made once for all test processes."""
    return shared("fuzz-material", DECISIVE, make_material)


def make_material(folder: Path) -> None:
    """Write everything into an empty folder."""
    synthesize_slide(folder / "slide.tif", 700, 600, 0.5, seed=3)
    write_standin_bundle(folder / "bundle")
    _write_result(folder)
    _write_training(folder)


def _write_result(folder: Path) -> None:
    options = PredictOptions(all_tiles=True)
    prediction = predict_slide(folder / "slide.tif", fake_model(fake_config()), options)
    write_h5ad(prediction, folder / "result.h5ad")


def _write_training(folder: Path) -> None:
    """Prepare two small sections, and train one fold on them for an epoch."""
    from tests.training.conftest import write_mean_encoder, write_section
    from triplex_deploy.data.folds import make_folds
    from triplex_deploy.training.options import TrainOptions
    from triplex_deploy.training.prepare import prepare_dataset
    from triplex_deploy.training.prepare_options import PrepareOptions
    from triplex_deploy.training.train import train_fold

    root = folder / "st"
    for number, name in enumerate(("A1", "B1", "C1")):
        write_section(root, name, np.random.default_rng(number))
    write_mean_encoder(folder / "means.onnx", batch="batch")
    options = PrepareOptions(layout="st", n_genes=3, tile_encoder=folder / "means.onnx")
    prepared = prepare_dataset(root, folder / "prepared", options)
    config = ModelConfig(
        n_genes=3,
        model="gem",
        feature_dim=prepared.feature_dim,
        embedding_dim=8,
        fusion_heads=2,
        global_heads=2,
        neighbor_heads=2,
    )
    patients = {name: name[0] for name in prepared.sections}
    fold = make_folds(patients)[0]
    run = folder / "run" / "fold-0"
    train_fold(prepared, fold, run, config, TrainOptions(epochs=1))
    checkpoint = next(iter(sorted(run.glob("*.ckpt"))))
    shutil.copy(checkpoint, folder / "small.ckpt")
    shutil.rmtree(root)
