"""Run a bundle's stored inputs and compare the outputs with PyTorch's stored outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import PARITY_INPUTS
from triplex_deploy.errors import BundleError
from triplex_deploy.exporters.gates import GATES, GraphParity, compare_graph, in_one_order
from triplex_deploy.runtime.model import Model


def replay_parity(model: Model) -> tuple[GraphParity, ...]:
    """Run every graph of an opened bundle on its stored inputs, without PyTorch.

    Args:
        model: The opened bundle.

    Returns:
        One result per graph.

    Raises:
        BundleError: The stored arrays cannot be read, or a graph has none.
    """
    path = model.bundle.path / PARITY_INPUTS
    arrays = _load(path)
    precisions = {entry.name: entry.precision for entry in model.bundle.manifest.graphs}
    results: list[GraphParity] = []
    for name, session in model.sessions.items():
        try:
            inputs = {t.name: arrays[f"{name}/in/{t.name}"] for t in session.spec.inputs}
            wanted = arrays[f"{name}/out/{session.spec.outputs[0].name}"]
        except KeyError as error:
            raise BundleError(f"{path}: no {error}; export the bundle again") from error
        ((output, found),) = model.run(name, inputs).items()
        pair = in_one_order(output, found), in_one_order(output, wanted)
        results += compare_graph(name, [pair], GATES[precisions[name]])
    return tuple(results)


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from error
