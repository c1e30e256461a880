from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import TileEncoder, TileEncoderWeights, build_model, state_of
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import LabeledSections, Prepared
from triplex_deploy.training.starting_point import principal_components, start_triplex

OPTIONS = TrainOptions(seed=0)
SMALL: dict[str, Any] = {
    "n_genes": 3,
    "global_depth": 2,
    "neighbor_depth": 1,
    "global_mlp_ratio": 1.0,
}


@pytest.fixture(scope="module")
def prepared(
    st_root: Path, mean_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """Features are the three channel means."""
    out = tmp_path_factory.mktemp("prepared") / "prepared"
    options = PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder)
    return prepare_dataset(st_root, out, options)


def test_components_turn_features_without_bending_them(prepared: Prepared) -> None:
    sections = list(prepared.sections.values())
    features = torch.from_numpy(
        np.concatenate([np.array(section.features) for section in sections])
    )
    mean, components = principal_components(sections, 3, seed=0)
    tokens = (features - mean) @ components.T
    assert tokens.square().mean().sqrt() == pytest.approx(0.5, rel=1e-3)
    assert (tokens.var(0).diff() <= 0).all()  # the first varies most
    gram = components @ components.T
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(3), atol=1e-3, rtol=1e-3)


def test_projections_and_heads_start_from_the_training_sections(prepared: Prepared) -> None:
    sections = list(prepared.sections.values())
    labels = [np.full((6, 3), [1.0, 2.0, 3.0], np.float32) for _ in sections]
    model: Any = build_model(ModelConfig(feature_dim=3, model="gem", **SMALL), seed=1)
    weights = TileEncoderWeights("means", "onnx", onnx=b"file", feature_dim=3)
    start_triplex(model, LabeledSections(sections, labels), weights, OPTIONS)
    assert model.expression_head.bias.tolist() == [1.0, 2.0, 3.0]
    assert model.global_encoder is not None
    mean, components = principal_components(sections, 512, seed=0)
    projection = model.global_encoder.projection
    torch.testing.assert_close(projection.weight[:3].detach(), components)
    torch.testing.assert_close(projection(mean)[:3].detach(), torch.zeros(3), atol=1e-4, rtol=0)


def test_trained_backbone_starts_from_a_frozen_one_of_its_kind(
    prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    sections = list(prepared.sections.values())
    labels = [np.zeros((6, 3), np.float32) for _ in sections]
    frozen: Any = TileEncoder().backbone
    weights = TileEncoderWeights("ours", state_dict=state_of(frozen))
    model: Any = build_model(ModelConfig(model="tem", **SMALL), seed=1)
    start_triplex(model, LabeledSections(sections, labels), weights, OPTIONS)
    assert model.target_encoder is not None
    assert torch.equal(model.target_encoder.backbone.conv1.weight, frozen.conv1.weight)
    other: Any = build_model(
        ModelConfig(model="tem", target_backbone="efficientnet_lite0", **SMALL), seed=1
    )
    start_triplex(other, LabeledSections(sections, labels), weights, OPTIONS)
    assert "efficientnet_lite0 starts from random weights" in caplog.text
