"""An encoder from timm through the whole program: exported, prepared with, trained, predicted."""

import json
import logging
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from tests.exporters.timm_here import require_timm
from tests.invoke import Invoke, invoke
from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import read_checkpoint
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepared import open_prepared
from triplex_deploy.training.train import train_fold

__all__ = ["invoke"]

ARGUMENTS = {"embed_dim": 64, "depth": 1, "num_heads": 1, "init_values": 1e-5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a vision transformer with one block."""
    timm = require_timm()
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, **ARGUMENTS)
    path = tmp_path_factory.mktemp("weights") / "pytorch_model.bin"
    torch.save({key: torch.randn_like(value) for key, value in network.state_dict().items()}, path)
    return path


def options() -> list[str]:
    return [f"--timm-arg={key}={value}" for key, value in ARGUMENTS.items()]


@pytest.mark.slow
def test_exported_encoder_is_trained_and_predicted_with(
    st_root: Path, weights: Path, invoke: Invoke, tmp_path: Path
) -> None:
    out = tmp_path / "encoder.onnx"
    network = ["--timm", "vit_tiny_patch16_224", *options(), "--pool", "cls+mean"]
    words = ["--weights", weights, "--out", out, "--name", "tiny", "--mpp", "0.5", "--json"]
    finished = invoke("encoder", "export", *network, *words)
    assert finished.status == 0, finished.err
    written = json.loads(finished.out)
    assert (written["name"], written["feature_dim"], written["pooling"]) == (
        "tiny",
        128,
        "cls+mean",
    )
    assert written["cost"]["gflop"] > 0

    given = ["--format", "st", "--genes", "3", "--tile-encoder", out]
    finished = invoke("prepare", st_root, *given, "--out", tmp_path / "prepared")
    assert finished.status == 0, finished.err
    prepared = open_prepared(tmp_path / "prepared")
    recorded = prepared.tile_encoder
    assert (recorded["name"], recorded["feature_dim"], recorded["mpp"]) == ("tiny", 128, 0.5)
    assert recorded["mean"] == [0.5, 0.5, 0.5]

    config = ModelConfig(
        n_genes=3, feature_dim=128, global_depth=2, global_mlp_ratio=1.0, neighbor_depth=1
    )
    train_options = TrainOptions(selection="test_fold", epochs=1)
    train_fold(prepared, prepared.folds[0], tmp_path / "run", config, train_options)
    checkpoint = tmp_path / "run" / "checkpoint.ckpt"
    finished = invoke("export", checkpoint, "--out", tmp_path / "bundle")
    assert finished.status == 0, finished.err
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["provenance"]["tile_encoder"]["name"] == "tiny"

    section = prepared.sections["A1"]
    spots = st_root / "ST-spotfiles" / "A1_selection.tsv"
    slide = section.measured.slide_path
    where = ["--spots", spots, "--mpp", section.measured.slide_mpp]
    finished = invoke(
        "predict", slide, *where, "--bundle", tmp_path / "bundle", "--out", tmp_path / "out"
    )
    assert finished.status == 0, finished.err
    predicted = anndata.read_h5ad(tmp_path / "out" / f"{slide.stem}.h5ad")
    expected = predict_section(read_checkpoint(checkpoint).build_model(), section)
    found = np.asarray(predicted[list(section.measured.spot_names)].X)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_another_scale_than_that_of_its_training_is_named(
    st_root: Path,
    weights: Path,
    invoke: Invoke,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "encoder.onnx"
    network = ["--timm", "vit_tiny_patch16_224", *options(), "--weights", weights, "--out", out]
    assert invoke("encoder", "export", *network, "--mpp", "0.25").status == 0
    given = ["--format", "st", "--genes", "3", "--tile-encoder", out, "--mpp", "0.8"]
    with caplog.at_level(logging.WARNING, "triplex_deploy"):
        finished = invoke("prepare", st_root, *given, "--out", tmp_path / "prepared")
    assert finished.status == 0, finished.err
    assert "training corresponds to tiles of 0.25 um per pixel, and these have 0.80" in caplog.text
