"""The paper's BC1 model with random weights, as PyTorch modules and as bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.bundle import MANIFEST
from triplex_deploy.contract import ModelConfig
from triplex_deploy.exporters import parity
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.int8 import quantize
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    build_model,
    state_of,
    write_checkpoint,
)
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.system import cache_home, installed_versions

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = "complete"
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
            "random ResNet18", state_dict=state_of(TileEncoder().backbone)
        ),
        provenance={},
    )


def bundles_for(checkpoint: Checkpoint, slide: Path, quick: bool) -> dict[str, Path]:
    """fp32 and int8 bundles of a checkpoint, calibrated on a slide; kept for later benchmarks.

    They lie in the user's cache under a key of all that decides them, the exporter's source
    included: tracing the graphs takes longer than a quick benchmark.
    """
    folder = cache_home() / "triplex-deploy" / "benchmarks" / _key(checkpoint, quick)
    if not (folder / COMPLETE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        calibration = sample_tiles(slide, checkpoint.tile_mpp, 16 if quick else 128)
        with tempfile.TemporaryDirectory(dir=folder.parent) as stage:
            make = make_bundles_quickly if quick else make_bundles
            make(checkpoint, calibration, Path(stage))
            (Path(stage) / COMPLETE).touch()
            shutil.copytree(stage, folder)
    return {precision: folder / precision for precision in ("fp32", "int8")}


def _key(checkpoint: Checkpoint, quick: bool) -> str:
    digest = hashlib.sha256(json.dumps([checkpoint.config.to_dict(), checkpoint.tile_mpp]).encode())
    for folder in ("exporters", "triplex_deploy/models", "triplex_deploy/contract"):
        for source in sorted((ROOT / folder).glob("*.py")):
            digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    packages = installed_versions(("torch", "onnx", "onnxruntime", "numpy"))
    digest.update(json.dumps([packages, quick]).encode())
    return digest.hexdigest()[:24]


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
        if entry.name in bundle.config.quantizable:
            quantize(exact / entry.file, calibration, int8 / entry.file)
            digest = sha256_of(int8 / entry.file)
            changes = {"sha256": digest, "graph_sha256": None, "precision": "int8"}
            entry = entry.model_copy(update=changes)
        entries.append(entry)
    manifest = bundle.manifest.model_copy(update={"graphs": tuple(entries), "precision": "int8"})
    (int8 / MANIFEST).write_text(manifest.sealed().to_json(), encoding="utf-8")
    return {"fp32": exact, "int8": int8}
