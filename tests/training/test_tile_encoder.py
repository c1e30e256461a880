from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triplex_deploy.errors import BackendError, CheckpointError, ConfigError, ContractError
from triplex_deploy.models import TileEncoder, read_checkpoint, state_of
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.runtime.tile_model import open_tile_model
from triplex_deploy.training.tile_encoder import open_tile_encoder

from .conftest import write_mean_encoder

TILES = np.random.default_rng(3).integers(0, 256, (3, 224, 224, 3), np.uint8)


def test_exported_encoder_gives_the_features_of_its_weights(
    checkpoint_path: Path, bundle: RunnableBundle, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.ckpt"
    torch.save(dict(read_checkpoint(checkpoint_path).tile_encoder.state_dict), weights)
    ours = open_tile_encoder(weights)
    entry = bundle.entry("tile_encoder", bundle.manifest.graphs[0].target)
    exported = open_tile_encoder(bundle.path / entry.file)
    assert ours.feature_dim == exported.feature_dim == 512
    np.testing.assert_allclose(ours.encode(TILES), exported.encode(TILES), atol=1e-4)


def test_seed_decides_a_random_encoder_and_its_digest() -> None:
    first, second, other = (open_tile_encoder(None, seed) for seed in (1, 1, 2))
    assert first.digest == second.digest != other.digest
    np.testing.assert_array_equal(first.encode(TILES[:1]), second.encode(TILES[:1]))


def test_stored_encoder_opens_to_the_same_features(tmp_path: Path) -> None:
    encoder = open_tile_encoder(None, 1)
    again = open_tile_encoder(tmp_path / encoder.store(tmp_path))
    assert again.digest == encoder.digest


def test_lightning_file_with_prefixes_and_classifier_is_loaded(tmp_path: Path) -> None:
    encoder: Any = open_tile_encoder(None, 1)
    state = state_of(encoder._encoder.backbone)
    prefixed = {f"model.resnet.{key}": value for key, value in state.items()}
    prefixed["model.resnet.fc.weight"] = torch.zeros(5, 512)
    path = tmp_path / "tenpercent_resnet18.ckpt"
    torch.save({"state_dict": prefixed, "epoch": 3}, path)
    assert open_tile_encoder(path).digest == open_tile_encoder(None, 1).digest


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    state = state_of(TileEncoder().backbone)
    del state["layer4.1.conv2.weight"]
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"missing keys: layer4\.1\.conv2\.weight"):
        open_tile_encoder(path)


def test_float_graph_gets_normalized_images(mean_encoder: Path) -> None:
    model = open_tile_model(mean_encoder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))
    expected = (TILES.mean(axis=(1, 2)) / 255 - 0.5) / (0.5, 0.25, 0.125)
    np.testing.assert_allclose(model.encode(TILES), expected, atol=1e-4)


def test_graph_of_fixed_batch_takes_any_number_of_tiles(mean_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.onnx"
    write_mean_encoder(path, batch=2)
    model = open_tile_model(path)
    assert model.fixed_batch == 2
    np.testing.assert_array_equal(model.encode(TILES), open_tile_model(mean_encoder).encode(TILES))


def test_other_graph_of_the_bundle_is_refused(bundle: RunnableBundle) -> None:
    entry = bundle.entry("target_encoder", bundle.manifest.graphs[0].target)
    with pytest.raises(ContractError, match=r"one float32 vector"):
        open_tile_encoder(bundle.path / entry.file)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no such file"):
        open_tile_encoder(tmp_path / "nothing.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        open_tile_encoder(tmp_path / "nothing.ckpt")


def test_normalization_of_an_onnx_encoder_is_part_of_its_digest(mean_encoder: Path) -> None:
    usual, other = (
        open_tile_encoder(mean_encoder, mean=mean, std=(0.5, 0.5, 0.5))
        for mean in ((0.5, 0.5, 0.5), (0.4, 0.5, 0.5))
    )
    assert usual.digest != other.digest
    assert usual.metadata()["mean"] == [0.5, 0.5, 0.5]
    assert not np.array_equal(usual.encode(TILES), other.encode(TILES))


def test_normalization_of_a_backbone_is_not_for_choosing() -> None:
    with pytest.raises(ConfigError, match="belong to an ONNX tile encoder"):
        open_tile_encoder(None, mean=(0.5, 0.5, 0.5))
