"""Every model and ablation can learn 20 spots by heart, so none of its branches is dead."""

import pytest
import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import build_model, fusion_loss
from triplex_deploy.tiles.apeg import position_index

SPOTS, GENES, STEPS = 20, 6, 40
SHAPE = {
    "n_genes": GENES,
    "embedding_dim": 64,
    "feature_dim": 48,
    "global_depth": 2,
    "global_heads": 4,
    "global_mlp_ratio": 1.0,
    "global_dropout": 0.0,
    "neighbor_depth": 1,
    "neighbor_heads": 4,
    "neighbor_dropout": 0.0,
    "fusion_mlp_ratio": 1.0,
    "fusion_dropout": 0.0,
}
VARIANTS = [
    {},
    {"model": "tem"},
    {"model": "nem"},
    {"model": "gem"},
    {"use_target": False},
    {"use_neighbor": False},
    {"use_global": False},
    {"fusion": "sum"},
    {"fusion": "concat"},
    {"fusion": "attention_pool"},
    {"position": "peg"},
    {"position": "none"},
    {"apeg_residual": False},
    {"fusion_loss_alpha": 0.0},
    {"auxiliary_heads": False},
    {"target_backbone": "efficientnet_lite0"},
]
QUICK = 4
"""Variants that every run of the tests trains."""


@pytest.mark.parametrize(
    "variant",
    # the first ones have every part once; the rest take a minute for what they share
    [
        pytest.param(v, marks=[pytest.mark.slow] if n >= QUICK else [])
        for n, v in enumerate(VARIANTS)
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_twenty_spots_are_learnt_by_heart(variant: dict[str, object]) -> None:
    config = ModelConfig.from_dict({**SHAPE, **variant})
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    images, around, slide = random(SPOTS, 3, 32, 32), random(SPOTS, 25, 48), random(SPOTS, 48)
    mask = torch.ones(SPOTS, 25, dtype=torch.bool)
    grid = [(i // 5, i % 5) for i in range(SPOTS)]
    table = torch.from_numpy(position_index(grid, config.position, config.apeg_kernel))
    labels = random(SPOTS, GENES)
    model = build_model(config, seed=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    for _ in range(STEPS):
        output = model(images, around, mask, slide, table, torch.arange(SPOTS))
        loss = fusion_loss(output, labels, config.fusion_loss_alpha)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert unused == []
    assert float((output.fusion.detach() - labels).square().mean()) < 0.1 * float(labels.var())
