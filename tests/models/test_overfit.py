"""Twenty spots are learnt by heart: a dead branch would not get there."""

import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models.loss import fusion_loss
from triplex_deploy.models.triplex import build_model

SPOTS, GENES, STEPS = 20, 5, 25


def test_twenty_spots_are_learnt_by_every_head(apeg_index_of):
    config = ModelConfig(
        n_genes=GENES,
        global_depth=2,
        neighbor_depth=1,
        global_mlp_ratio=1.0,
        fusion_mlp_ratio=1.0,
        fusion_dropout=0.0,
        global_dropout=0.0,
        neighbor_dropout=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn((SPOTS, GENES), generator=generator)
    inputs = (
        torch.randn((SPOTS, 3, 32, 32), generator=generator),
        torch.randn((SPOTS, 25, 512), generator=generator),
        torch.ones(SPOTS, 25, dtype=torch.bool),
        torch.randn((SPOTS, 512), generator=generator),
        apeg_index_of(torch.tensor([(i // 5, i % 5) for i in range(SPOTS)])),
        torch.arange(SPOTS),
    )
    model = build_model(config, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(STEPS):
        output = model(*inputs)
        optimizer.zero_grad()
        fusion_loss(output, labels, config.fusion_loss_alpha).backward()
        optimizer.step()

    variance = labels.var(correction=0)
    for name, prediction in model(*inputs)._asdict().items():
        error = (prediction - labels).square().mean()
        assert error < 0.1 * variance, f"{name}: {error / variance:.2f} of the variance remains"
    assert all(parameter.grad is not None for parameter in model.parameters())
