"""One small configuration of every model and ablation, for tests that go through them all."""

from typing import Any

import torch

from triplex_deploy.contract import (
    BleepConfig,
    Config,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    ModelConfig,
    StNetConfig,
)
from triplex_deploy.models import (
    Checkpoint,
    SpotModel,
    TileEncoderWeights,
    build_model,
    state_of,
)

SMALL: dict[str, Any] = {
    "n_genes": 5,
    "embedding_dim": 32,
    "fusion_heads": 4,
    "fusion_mlp_ratio": 1.0,
    "global_depth": 2,
    "global_heads": 4,
    "global_mlp_ratio": 1.0,
    "neighbor_depth": 1,
    "neighbor_heads": 4,
}

CHANGES: dict[str, dict[str, Any]] = {
    "triplex": {},
    "tem": {"model": "tem"},
    "nem": {"model": "nem"},
    "gem": {"model": "gem"},
    "without target": {"use_target": False},
    "without neighbor": {"use_neighbor": False},
    "without global": {"use_global": False},
    "sum": {"fusion": "sum"},
    "concat": {"fusion": "concat"},
    "attention pool": {"fusion": "attention_pool"},
    "sum without global": {"fusion": "sum", "use_global": False},
    "peg": {"position": "peg"},
    "no position": {"position": "none"},
    "no auxiliary heads": {"auxiliary_heads": False},
    "as in 2025": {
        "target_projection": True,
        "apeg_residual": False,
        "nonnegative": True,
    },
    "efficientnet-lite0": {"target_backbone": "efficientnet_lite0", "feature_dim": 1280},
    "foreign features": {"feature_dim": 3, "apeg_kernel": 5},
}
VARIANTS = {name: ModelConfig(**{**SMALL, **changes}) for name, changes in CHANGES.items()}

BANK_SIZE = 60
BASELINES: dict[str, Config] = {
    "st_net": StNetConfig(n_genes=5),
    "his_to_gene": HisToGeneConfig(n_genes=5, embedding_dim=32, depth=2, heads=4, mlp_dim=48),
    "hist2st": Hist2StConfig(
        n_genes=5, embedding_dim=256, mlp_dim=256, depth=1, heads=4, channels=8, graph_depth=2
    ),
    "egn": EgnConfig(
        n_genes=5,
        embedding_dim=32,
        depth=2,
        heads=4,
        mlp_dim=64,
        bridge_heads=4,
        bridge_head_dim=8,
        n_exemplars=6,
        bank_size=BANK_SIZE,
    ),
    "bleep": BleepConfig(n_genes=5, embedding_dim=32, n_retrieved=7, bank_size=BANK_SIZE),
}
"""The models TRIPLEX is compared with, as narrow as they can be: ST-Net has one width."""


def model_of(config: Config, seed: int) -> SpotModel:
    """An untrained model in evaluation mode; where it looks spots up, made-up ones."""
    model = build_model(config, seed).eval()
    if isinstance(config, EgnConfig | BleepConfig):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(config.bank_size, config.feature_dim, generator=generator).abs()
        labels = torch.rand(config.bank_size, config.n_genes, generator=generator)
        model.set_reference_bank(features, labels)
    return model


def variant_checkpoint(
    config: Config, tile_encoder: TileEncoderWeights, provenance: dict[str, Any] | None = None
) -> Checkpoint:
    """A checkpoint of such a model, for tiles at 0.5 um/px and labels that are counts."""
    return Checkpoint(
        config=config,
        genes=tuple(f"gene{i}" for i in range(config.n_genes)),
        label_transform={},
        tile_mpp=0.5,
        state_dict=state_of(model_of(config, seed=1)),
        tile_encoder=tile_encoder,
        provenance=provenance or {},
    )
