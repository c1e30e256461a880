"""Export a checkpoint as a bundle, as ``triplex-deploy export`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triplex_deploy.runtime.model import RunnableBundle


def export(
    checkpoint: str | Path | Sequence[str | Path], out: str | Path, **options: Any
) -> RunnableBundle:
    """Export a checkpoint, or an ensemble of several, as a bundle of ONNX graphs.

    Every graph is compared with PyTorch. If one differs too much, no bundle is written.

    Args:
        checkpoint: The checkpoint, or a list of checkpoints, which become an ensemble.
        out: Folder of the bundle.
        options: Fields of ``triplex_deploy.exporters.options.ExportOptions``, such as
            ``precision="fp16"`` or ``force=True``.

    Returns:
        The bundle, for ``predict_slide``.

    Raises:
        CheckpointError: If a checkpoint cannot be read, or members differ in more than weights.
        ConfigError: If an option is unknown, or the model does not have the precision.
        OutputError: If ``out`` exists or cannot be written.
        ParityError: If a graph does not pass its gate.
    """
    from triplex_deploy.api.options import checked_options
    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.exporters.options import ExportOptions
    from triplex_deploy.runtime.model import load_bundle

    export_bundle(checkpoint, out, checked_options(ExportOptions, options))
    return load_bundle(out)
