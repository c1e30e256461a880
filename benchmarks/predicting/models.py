"""The paper's BC1 model with random weights, as PyTorch modules and as bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters import parity
from exporters.export import ExportOptions, export_bundle
from exporters.int8 import CONVNETS, quantise
from triplex_deploy.bundle import MANIFEST, sha256_of
from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    build_model,
    state_of,
    write_checkpoint,
)

PAPER = ModelConfig()
SMALL = ModelConfig(n_genes=50, global_depth=2, global_mlp_ratio=1.0, neighbor_depth=1)


def make_checkpoint(config: ModelConfig, mpp: float) -> Checkpoint:
    """Seeded random weights for tiles at ``mpp``."""
    torch.manual_seed(0)
    return Checkpoint(
        config=config,
        genes=tuple(f"gene{i}" for i in range(config.n_genes)),
        label_transform={},
        tile_mpp=mpp,
        state_dict=state_of(build_model(config, seed=0)),
        tile_encoder=TileEncoderWeights(
            "random ResNet18", state_dict=state_of(TileEncoder().trunk)
        ),
        provenance={},
    )


def make_bundles(
    checkpoint: Checkpoint, calibration: NDArray[np.uint8], folder: Path
) -> dict[str, Path]:
    """Export fp32 and int8 bundles under ``folder``, each through its parity gate."""
    write_checkpoint(checkpoint, folder / "model.ckpt")
    options = {"fp32": ExportOptions(), "int8": ExportOptions("int8", calibration)}
    for precision, chosen in options.items():
        export_bundle(folder / "model.ckpt", folder / precision, chosen)
    return {precision: folder / precision for precision in options}


def make_bundles_quickly(
    checkpoint: Checkpoint, calibration: NDArray[np.uint8], folder: Path
) -> dict[str, Path]:
    """The same with a handful of parity cases, and int8 made from fp32 without its gate."""
    parity.SIZES.update(dict.fromkeys(parity.SIZES, (1, 2, 3)))
    parity.GRID_SIDE = 3  # type: ignore[misc]
    write_checkpoint(checkpoint, folder / "model.ckpt")
    exact, int8 = folder / "fp32", folder / "int8"
    bundle, _ = export_bundle(folder / "model.ckpt", exact)
    shutil.copytree(exact, int8)
    entries = []
    for entry in bundle.manifest.graphs:
        if entry.name in CONVNETS:
            quantise(exact / entry.file, calibration, int8 / entry.file)
            digest = sha256_of(int8 / entry.file)
            entry = entry.model_copy(update={"sha256": digest, "precision": "int8"})
        entries.append(entry)
    manifest = bundle.manifest.model_copy(update={"graphs": tuple(entries), "precision": "int8"})
    (int8 / MANIFEST).write_text(manifest.sealed().to_json(), encoding="utf-8")
    return {"fp32": exact, "int8": int8}
