"""Convert published TRIPLEX weights to a checkpoint of this package."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import CheckpointError, ConfigError, OutputError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.ours import exists
from triplex_deploy.models import Checkpoint, TileEncoderWeights, write_checkpoint
from triplex_deploy.models.published.checkpoint import OfficialModel, read_official
from triplex_deploy.models.published.keys import Layout
from triplex_deploy.training.tile_encoder import open_tile_encoder, stored_weights

LABELS: Final[Mapping[Layout, LabelTransform]] = {
    "2024": LabelTransform(),
    "2025": LabelTransform(log="ln"),
}
"""Label transform of the published code of each layout, by default.

See docs/models.md, "Label transform".
"""


@dataclass(frozen=True)
class ImportOptions:
    """Holds what published weights do not contain."""

    layout: Layout
    """Year of the published code that wrote the weights."""
    settings: Mapping[str, Any]
    """Options of the model, see ``read_official``."""
    genes: Path
    """Text file with a gene symbol in each line, in the order of the outputs."""
    tile_mpp: float
    """Microns per pixel of the tiles of training."""
    tile_encoder: Path | None = None
    """Frozen encoder of training: weights of one of our backbones, or an ONNX file."""


def import_checkpoint(source: Path, out: Path, options: ImportOptions) -> OfficialModel:
    """Convert published weights and write them as a checkpoint.

    Args:
        source: Checkpoint of the published code.
        out: The file to write, which must not exist.
        options: What the weights do not contain.

    Returns:
        The model, with the options that were inferred.

    Raises:
        CheckpointError: The weights do not fit, or the file holds more than tensors.
        ConfigError: A setting is missing or wrong.
        OutputError: ``out`` exists or cannot be written.
    """
    if exists(out):
        raise OutputError(f"{out}: exists already; choose another --out")
    official = read_official(source, options.layout, options.settings)
    checkpoint = Checkpoint(
        config=official.config,
        genes=_read_genes(options.genes),
        label_transform=LABELS[options.layout].to_dict(),
        tile_mpp=options.tile_mpp,
        state_dict=official.state_dict,
        tile_encoder=_tile_encoder(options.tile_encoder, official.config.feature_dim),
        provenance={
            "imported_from": source.name,
            "sha256": sha256_of(source),
            "layout": options.layout,
            "inferred": official.inferred,
            "assumed": ["label_transform"],
        },
    )
    write_checkpoint(checkpoint, out)
    return official


def _tile_encoder(path: Path | None, feature_dim: int) -> TileEncoderWeights:
    if path is None:
        raise ConfigError(
            f"tile encoder: the model reads {feature_dim} features per tile, and the file does not "
            "hold the frozen encoder; pass its weights or an ONNX file as --tile-encoder"
        )
    encoder = open_tile_encoder(path)
    if encoder.feature_dim != feature_dim:
        raise CheckpointError(
            f"{path}: gives {encoder.feature_dim} features per tile, the model reads "
            f"{feature_dim}; pass the encoder it was trained with"
        )
    with tempfile.TemporaryDirectory() as folder:
        return stored_weights(encoder.metadata(), Path(folder) / encoder.store(Path(folder)))


def _read_genes(path: Path) -> tuple[str, ...]:
    lines = read_text(path, ConfigError, "list of genes", "list a gene in each line").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
