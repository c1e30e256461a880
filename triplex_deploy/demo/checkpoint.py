"""Write the demo's checkpoints, whose provenance warns against their use on real slides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.demo.programs import GENES
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    build_model,
    read_checkpoint,
    state_of,
    write_checkpoint,
)

UNTRAINED: Final = "Untrained demo weights: the predictions only show that the software runs."
SYNTHETIC: Final = "Trained on synthetic tissue (triplex-deploy demo): not valid for real slides."


def write_demo_checkpoint(path: str | Path, tile_mpp: float, seed: int = 0) -> None:
    """Write a small untrained checkpoint with random weights, to try every step with.

    Args:
        path: The file.
        tile_mpp: Microns per pixel of the tiles.
        seed: Seed of the weights.

    Raises:
        OutputError: If the file cannot be written.
    """
    config = ModelConfig(
        n_genes=len(GENES),
        global_depth=2,
        global_heads=8,
        global_mlp_ratio=1.0,
        neighbor_depth=1,
        neighbor_heads=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tile_encoder = TileEncoder()
    checkpoint = Checkpoint(
        config=config,
        genes=GENES,
        label_transform={},
        tile_mpp=tile_mpp,
        state_dict=state_of(build_model(config, seed)),
        tile_encoder=TileEncoderWeights(
            "random ResNet18", state_dict=state_of(tile_encoder.backbone)
        ),
        provenance={"note": UNTRAINED, "seed": seed},
    )
    write_checkpoint(checkpoint, path)


def mark_synthetic(path: Path) -> None:
    """Note in a trained checkpoint that its data are synthetic, for predictions and model card."""
    checkpoint = read_checkpoint(path)
    noted = {**checkpoint.provenance, "note": SYNTHETIC}
    write_checkpoint(replace(checkpoint, provenance=noted), path)
