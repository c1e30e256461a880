"""Adding a model takes a configuration and a network: here both, in one test file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.variants import variant_checkpoint
from triplex_deploy import contract
from triplex_deploy.contract import CONFIGS, Config, GraphSpec, config_from_dict
from triplex_deploy.contract.graphs import fusion_head_graph, target_encoder_graph, target_tokens
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.models import TileEncoder, TileEncoderWeights, build_model, write_checkpoint
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.runtime.ort import open_ort_session


@dataclass(frozen=True)
class ToyConfig(Config):
    """A linear model of the mean color of the target tile."""

    display_name: ClassVar[str] = "Toy"
    network: ClassVar[str] = f"{__name__}:Toy"

    model: str = "toy"

    def graphs(self) -> tuple[GraphSpec, ...]:
        tokens = target_tokens("batch", 1, 3)
        return (target_encoder_graph(tokens), fusion_head_graph((tokens,), self.n_genes))


class Toy(SpotModel):
    """Expression (B, G) of normalized tiles (B, 3, 224, 224)."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.expression_head = nn.Linear(3, config.n_genes)

    def forward(self, images: Tensor) -> Tensor:
        return self.predict_from_tokens(self.encode_targets(images))

    def encode_targets(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)).unsqueeze(1)

    def predict_from_tokens(self, target_tokens: Tensor) -> Tensor:
        expression: Tensor = self.expression_head(target_tokens.squeeze(1))
        return expression


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    contract.register(ToyConfig)
    yield
    del CONFIGS["toy"]


def test_a_registered_model_is_built_from_its_name() -> None:
    config = config_from_dict({"model": "toy", "n_genes": 4})
    model = build_model(config, seed=1)
    assert isinstance(model, Toy)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    with pytest.raises(ConfigError, match="registered already"):
        contract.register(ToyConfig, "triplex")


def test_it_exports_and_passes_the_parity_gate(tmp_path: Path) -> None:
    encoder = TileEncoderWeights("random", state_dict=TileEncoder().backbone.state_dict())
    checkpoint = variant_checkpoint(ToyConfig(n_genes=4), encoder)
    write_checkpoint(checkpoint, tmp_path / "toy.ckpt")
    bundle, report = export_bundle(tmp_path / "toy.ckpt", tmp_path / "bundle")
    assert report.passed
    assert set(bundle.specs) == {"target_encoder", "fusion_head"}
    tiles = np.full((2, 224, 224, 3), 90, np.uint8)
    with open_ort_session(
        bundle.path / "target_encoder.onnx", bundle.specs["target_encoder"]
    ) as session:
        assert session.run({"tiles": tiles})["target_tokens"].shape == (2, 1, 3)


def test_it_is_trained_by_the_generic_recipe() -> None:
    recipes = pytest.importorskip("triplex_deploy.training.recipes")
    recipe = recipes.recipe_of(ToyConfig(n_genes=4))
    assert recipe.sampler is recipes.SAMPLERS["spots"]
    assert recipe.objective is recipes.OBJECTIVES["mean_squared_error"]
