"""Turn published TRIPLEX weights into a checkpoint, as ``import-checkpoint`` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from triplex_deploy.models.published.checkpoint import OfficialModel


def import_checkpoint(
    official: str | Path,
    out: str | Path,
    *,
    layout: Literal["2024", "2025"],
    config: str | Path | Mapping[str, Any],
    genes: str | Path,
    mpp: float,
    tile_encoder: str | Path | None = None,
) -> OfficialModel:
    """Convert a Lightning checkpoint of the published TRIPLEX code.

    Args:
        official: The published checkpoint.
        out: Checkpoint to write.
        layout: Year of the published code that wrote the weights.
        config: Settings of the model, or a JSON or YAML file of them; at least ``fusion_heads``
            and ``global_heads``.
        genes: Text file with the predicted genes in order, a gene in each line.
        mpp: Microns per pixel of the training tiles.
        tile_encoder: Frozen encoder of the training: ResNet18 weights, or an ONNX file.

    Returns:
        The model, with the settings that were read off the weights.

    Raises:
        CheckpointError: If the weights do not fit, or the file holds more than tensors.
        ConfigError: If a setting is missing or wrong.
        OutputError: If ``out`` exists or cannot be written.
    """
    from triplex_deploy.training import import_checkpoint as importing
    from triplex_deploy.training.options import read_settings_file

    settings = config if isinstance(config, Mapping) else read_settings_file(Path(config))
    encoder = None if tile_encoder is None else Path(tile_encoder)
    options = importing.ImportOptions(layout, settings, Path(genes), mpp, encoder)
    return importing.import_checkpoint(Path(official), Path(out), options)
