"""Where the models TRIPLEX is compared with start from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triplex_deploy.contract import (
    BleepConfig,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    StNetConfig,
)
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.models import TileEncoder, TileEncoderWeights, build_model
from triplex_deploy.models import state_of as weights_of
from triplex_deploy.models.densenet import DenseNet
from triplex_deploy.models.st_net import StNet
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections
from triplex_deploy.training.recipes import recipe_of

TRAIN = LabeledSections([], [np.full((2, 3), [1.0, 2.0, 3.0], np.float32)])
ENCODER = TileEncoderWeights("means", "onnx", onnx=b"file", feature_dim=3)
SHAPE: dict[str, Any] = {"growth": 4, "blocks": (1, 1), "stem_channels": 8}


def small_st_net(config: StNetConfig) -> StNet:
    return StNet(config, **SHAPE)


@pytest.fixture
def densenet_file(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = DenseNet(**SHAPE)
    classifier = {
        "classifier.weight": torch.zeros(7, backbone.width),
        "classifier.bias": torch.ones(7),
    }
    torch.save({**backbone.state_dict(), **classifier}, tmp_path / "densenet.pth")
    return tmp_path / "densenet.pth"


def test_backbone_starts_from_the_users_file(densenet_file: Path) -> None:
    model = small_st_net(StNetConfig(n_genes=3))
    head = model.expression_head.weight.clone()
    options = TrainOptions(backbone_weights=str(densenet_file))
    recipe_of(model.config).start(model, TRAIN, ENCODER, options)
    stored = torch.load(densenet_file, weights_only=True)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, stored[key]), key
    assert torch.equal(model.expression_head.weight, head)


def test_file_that_does_not_fit_the_backbone_is_refused_by_name(
    densenet_file: Path, tmp_path: Path
) -> None:
    stored = torch.load(densenet_file, weights_only=True)
    del stored["features.norm5.weight"]
    torch.save(stored, tmp_path / "cut.pth")
    options = TrainOptions(backbone_weights=str(tmp_path / "cut.pth"))
    model = small_st_net(StNetConfig(n_genes=3))
    with pytest.raises(CheckpointError, match=r"cut\.pth: .*missing keys: features\.norm5\.weight"):
        recipe_of(model.config).start(model, TRAIN, ENCODER, options)


def test_st_net_starts_from_the_mean_where_it_is_asked_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = small_st_net(StNetConfig(n_genes=3, start_from_mean=True))
    recipe_of(model.config).start(model, TRAIN, ENCODER, TrainOptions())
    assert model.expression_head.bias.tolist() == [1.0, 2.0, 3.0]
    assert not model.expression_head.weight.any()
    assert "DenseNet starts from random weights; set backbone_weights" in caplog.text
    other = small_st_net(StNetConfig(n_genes=3))
    recipe_of(other.config).start(other, TRAIN, ENCODER, TrainOptions())
    assert other.expression_head.bias.tolist() != [1.0, 2.0, 3.0]


def test_bleep_starts_from_a_frozen_encoder_of_its_kind(tmp_path: Path) -> None:
    config = BleepConfig(n_genes=3, embedding_dim=8)
    frozen: Any = TileEncoder().backbone
    published: Any = TileEncoder().backbone
    encoder = TileEncoderWeights("ours", state_dict=weights_of(frozen))
    model: Any = build_model(config, seed=1)
    recipe_of(config).start(model, TRAIN, encoder, TrainOptions())
    assert torch.equal(model.backbone.conv1.weight, frozen.conv1.weight)
    torch.save(published.state_dict(), tmp_path / "resnet.pth")
    options = TrainOptions(backbone_weights=str(tmp_path / "resnet.pth"))
    recipe_of(config).start(model, TRAIN, encoder, options)
    assert torch.equal(model.backbone.conv1.weight, published.conv1.weight)


SMALL: dict[str, Any] = {"n_genes": 3, "embedding_dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16}
WITHOUT_BACKBONE = [
    HisToGeneConfig(**SMALL),
    Hist2StConfig(n_genes=3, channels=8, embedding_dim=256, mlp_dim=256, heads=2, depth=1),
    EgnConfig(**SMALL, feature_dim=3, bridge_heads=2, bridge_head_dim=4),
]


@pytest.mark.parametrize("config", WITHOUT_BACKBONE, ids=lambda config: config.model)
def test_other_heads_start_near_the_mean_and_take_no_backbone(config: Any) -> None:
    model = build_model(config, seed=1)
    recipe_of(config).start(model, TRAIN, ENCODER, TrainOptions())
    biases = [value.tolist() for key, value in model.named_parameters() if key.endswith("bias")]
    assert biases.count([1.0, 2.0, 3.0]) == 1
    options = TrainOptions(backbone_weights="resnet.pth")
    with pytest.raises(
        ConfigError, match=f"backbone_weights: {config.model} has no image backbone"
    ):
        recipe_of(config).start(model, TRAIN, ENCODER, options)
