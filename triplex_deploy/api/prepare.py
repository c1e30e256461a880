"""Prepare a data set for training, as ``triplex-deploy prepare`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from triplex_deploy.progress import shown

if TYPE_CHECKING:
    from triplex_deploy.training.prepared import Prepared


def prepare(
    dataset: str | Path,
    out: str | Path,
    *,
    format: str,
    device: str = "cpu",
    progress: bool = False,
    **options: Any,
) -> Prepared:
    """Read a data set, encode every tile once with the frozen encoder, and set up folds.

    A call that was interrupted goes on if it is repeated.

    Args:
        dataset: Folder of the data set.
        out: Folder to write.
        format: Layout of the data set: ``st``, ``visium``, ``hest`` or another that
            ``triplex-deploy prepare --help`` lists.
        device: ``cpu`` or ``cuda:N``.
        progress: Print the progress on stderr.
        options: Fields of ``triplex_deploy.training.prepare_options.PrepareOptions``, such as
            ``n_genes=250``, ``tile_encoder="weights.ckpt"`` or ``folds="sections"``.

    Returns:
        The prepared data set, for ``train``.

    Raises:
        ConfigError: If an option is unknown or out of range.
        DatasetError: If the data set cannot be read.
        OutputError: If ``out`` cannot be written or holds something else.
    """
    from triplex_deploy.api.options import checked_options
    from triplex_deploy.runtime.device import CPU, parse_device
    from triplex_deploy.training.prepare import prepare_dataset
    from triplex_deploy.training.prepare_options import PrepareOptions

    given = {"layout": format, "device": parse_device(device) or CPU, **options}
    chosen = checked_options(PrepareOptions, given)
    return prepare_dataset(dataset, out, chosen, shown(progress))
