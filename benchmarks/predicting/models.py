"""Make the models that are predicted with: checkpoints, and bundles that pass their gates."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.contract import ModelConfig
from triplex_deploy.contract.precision import DEFAULT, cpu_flag
from triplex_deploy.errors import ParityError
from triplex_deploy.exporters import parity
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import WEIGHT_BITS, ExportOptions
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    build_model,
    state_of,
    write_checkpoint,
)
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.system import cache_home, installed_versions, processor_flags

ROOT: Final = Path(__file__).resolve().parents[2]
COMPLETE: Final = "complete"
"""File that is written last into a folder of bundles."""
INT8: Final = "int8"
CALIBRATION_TILES: Final = {False: 128, True: 40}
"""Number of tiles that int8 is calibrated on, in a full and in a quick run."""
PAPER: Final = ModelConfig()
SMALL: Final = ModelConfig(n_genes=50, global_depth=2, global_mlp_ratio=1.0, neighbor_depth=1)


@dataclass(frozen=True)
class Bundles:
    """The bundles of a checkpoint that pass their gates."""

    paths: dict[str, Path]
    """Folder by precision."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a precision has no bundle: the figures with which it missed its gate."""


def make_checkpoint(config: ModelConfig, mpp: float) -> Checkpoint:
    """Return a checkpoint with seeded random weights for tiles at ``mpp``."""
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


def bundles_for(checkpoint: Checkpoint, slide: Path, quick: bool) -> Bundles:
    """Export fp32 and int8 bundles, or find those of an earlier run.

    Each passes its parity gate. An int8 export that misses it leaves no bundle: speed without
    accuracy is not measured. The bundles are in the user's cache, under a key of all that decides
    about them, the exporter's source included: an export takes longer than a quick benchmark.

    Args:
        checkpoint: The model.
        slide: Slide to calibrate int8 on.
        quick: Whether to calibrate on few tiles, and to compare with PyTorch at few small sizes.
    """
    folder = cache_home() / "triplex-deploy" / "benchmarks" / _key(checkpoint, quick)
    if not (folder / COMPLETE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        calibration = sample_tiles(slide, checkpoint.tile_mpp, CALIBRATION_TILES[quick])
        with tempfile.TemporaryDirectory(dir=folder.parent) as stage:
            with few_parity_cases() if quick else nullcontext():
                absent = make_bundles(checkpoint, calibration, Path(stage))
            (Path(stage) / COMPLETE).write_text(json.dumps(absent), encoding="utf-8")
            shutil.copytree(stage, folder)
    absent = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    names = [name for name in (DEFAULT, INT8) if name not in absent]
    return Bundles({name: folder / name for name in names}, absent)


def make_bundles(
    checkpoint: Checkpoint, calibration: NDArray[np.uint8], folder: Path
) -> dict[str, str]:
    """Export bundles into folders named by precision; return why one has none."""
    path = folder / "model.ckpt"
    write_checkpoint(checkpoint, path)
    export_bundle(path, folder / DEFAULT)
    options = ExportOptions(INT8, calibration, int8_weights=int8_weight_bits())
    try:
        export_bundle(path, folder / INT8, options)
    except ParityError as error:
        return {INT8: str(error)}
    return {}


def int8_weight_bits() -> int:
    """Return the bits of int8's weights for this CPU: fewer without instructions for int8."""
    return WEIGHT_BITS[0] if cpu_flag(INT8, processor_flags()) else WEIGHT_BITS[-1]


@contextmanager
def few_parity_cases() -> Iterator[None]:
    """Compare exports with PyTorch at small sizes alone; the gates stay as they are."""
    few = dict.fromkeys(parity.SIZES, (1, 2, 3))
    with patch.dict(parity.SIZES, few), patch.object(parity, "GRID_SIDE", 3):
        yield


def _key(checkpoint: Checkpoint, quick: bool) -> str:
    facts = [checkpoint.config.to_dict(), checkpoint.tile_mpp, quick, int8_weight_bits()]
    packages = installed_versions(("torch", "onnx", "onnxruntime", "numpy"))
    digest = hashlib.sha256(json.dumps([facts, packages]).encode())
    for state in (checkpoint.state_dict, checkpoint.tile_encoder.state_dict):
        for name, tensor in sorted(state.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    for part in ("exporters", "triplex_deploy/models", "triplex_deploy/contract"):
        for source in sorted((ROOT / part).glob("*.py")):
            digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:24]
