"""A whole model in one file: its configuration, network and loss. No other file names it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import write_mean_encoder, write_section
from tests.variants import variant_checkpoint
from triplex_deploy import contract
from triplex_deploy.contract import CONFIGS, Config, GraphSpec, config_from_dict
from triplex_deploy.contract.config import TrainingRecipe
from triplex_deploy.contract.graphs import fusion_head_graph, target_encoder_graph, target_tokens
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.models import (
    TileEncoder,
    TileEncoderWeights,
    build_model,
    read_checkpoint,
    write_checkpoint,
)
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.training.batches import SpotBatch
from triplex_deploy.training.images import normalize_tiles
from triplex_deploy.training.objectives import Objective
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import LabeledSections, label_sections
from triplex_deploy.training.recipes import recipe_of
from triplex_deploy.training.tile_encoder import stored_weights
from triplex_deploy.training.train import train_fold


@dataclass(frozen=True)
class ToyConfig(Config):
    """A linear model of the mean color of the target tile."""

    display_name: ClassVar[str] = "Toy"
    network: ClassVar[str] = f"{__name__}:Toy"
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe(objective=f"{__name__}:absolute_error")

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


class AbsoluteError(Objective):
    """Computes the mean absolute error."""

    def __init__(self, model: Toy) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SpotBatch) -> Tensor:
        return (self.model(normalize_tiles(batch.tiles)) - batch.labels).abs().mean()


def absolute_error(
    model: Toy, train: LabeledSections, options: TrainOptions, device: torch.device
) -> Objective:
    return AbsoluteError(model)


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


def test_it_is_trained_as_its_recipe_declares(tmp_path: Path) -> None:
    root = tmp_path / "st"
    root.mkdir()
    for number, name in enumerate(("A1", "B1")):
        write_section(root, name, np.random.default_rng(number))
    write_mean_encoder(tmp_path / "means.onnx", batch="batch")
    prepared = prepare_dataset(
        root,
        tmp_path / "prepared",
        PrepareOptions(layout="st", n_genes=3, tile_encoder=tmp_path / "means.onnx"),
    )
    options = TrainOptions(
        selection="test_fold", epochs=1, batch_size=6, learning_rate=0.1, augment=False
    )
    config = ToyConfig(n_genes=3, feature_dim=3)
    metrics = train_fold(prepared, prepared.folds[0], tmp_path / "run", config, options)
    assert metrics["epochs"] == 1

    # the only step of Adam moves every weight by the learning rate, from the start of the recipe
    train = label_sections(prepared, metrics["fitted_on"], metrics["genes"])
    start = build_model(config, options.seed)
    recipe = recipe_of(config)
    encoder = stored_weights(prepared.tile_encoder, prepared.tile_encoder_path)
    recipe.start(start, train, encoder, options)
    begun = start.state_dict()["expression_head.bias"]
    np.testing.assert_allclose(begun, train.mean_label())
    batch = next(recipe.sampler(config, train, options).epoch(0))
    objective = recipe.objective(start, train, options, torch.device("cpu"))
    assert isinstance(objective, AbsoluteError)
    objective(batch).backward()
    slope = start.get_parameter("expression_head.bias").grad
    assert slope is not None
    trained = read_checkpoint(tmp_path / "run" / "checkpoint.ckpt").state_dict
    moved = trained["expression_head.bias"] - begun
    np.testing.assert_allclose(moved, -0.1 * torch.sign(slope), rtol=1e-3, atol=1e-6)


def test_recipe_with_an_unknown_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ToyConfig(n_genes=3)
    for name in ("mean_squared_error", f"{__name__}:none", "no.such.module:function"):
        monkeypatch.setattr(ToyConfig, "recipe", TrainingRecipe(objective=name))
        with pytest.raises(ConfigError, match=f"recipe of toy: {name} cannot be imported"):
            recipe_of(config)
