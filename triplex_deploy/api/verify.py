"""Replay the parity inputs of a bundle, as ``triplex-deploy verify`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triplex_deploy.runtime.gates import GraphParity


def verify(bundle: str | Path, device: str = "auto") -> tuple[GraphParity, ...]:
    """Check the files of a bundle and compare its graphs here with PyTorch's stored outputs.

    Args:
        bundle: Folder of the bundle.
        device: ``auto``, ``cpu`` or ``cuda:N``.

    Returns:
        A comparison for each graph; ``passed`` is False where it no longer matches.

    Raises:
        BundleError: If a file is missing or was altered.
        BackendError: If the device cannot be used.
    """
    from triplex_deploy.runtime.model import load_bundle
    from triplex_deploy.runtime.replay import replay_parity

    with load_bundle(bundle).open(device=device) as model:
        return replay_parity(model)
