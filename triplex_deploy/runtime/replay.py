"""Run a bundle's stored inputs again and compare the outputs with PyTorch's stored outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import PARITY_INPUTS, Bundle
from triplex_deploy.contract import TILES, TensorSpec
from triplex_deploy.contract.precision import Gate
from triplex_deploy.errors import BundleError
from triplex_deploy.files.npz import read_npz
from triplex_deploy.runtime.gates import (
    GATES,
    EndToEndParity,
    GraphParity,
    compare_end_to_end,
    compare_graph,
    in_one_order,
)
from triplex_deploy.runtime.session import Session

CHAIN: Final = "chain"
"""Name, among the stored arrays, of a small slide that runs through all graphs."""


class OpenedBundle(Protocol):
    """What a replay needs of an opened bundle; ``Model`` is one."""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """A session for each graph by its name."""

    @property
    def backend(self) -> str:
        """Name of the runtime that runs the graphs."""

    @property
    def precision(self) -> str:
        """Precision of the run."""

    def graph_precision(self, graph: str) -> str:
        """Return the precision in which a graph runs, which gives its gate."""


def replay_parity(model: OpenedBundle) -> tuple[GraphParity, ...]:
    """Run every graph of an opened bundle on its stored inputs, without PyTorch.

    Args:
        model: The opened bundle.

    Returns:
        One result per graph.

    Raises:
        BundleError: The stored arrays cannot be read, or a graph has none.
    """
    bundle = model.bundle
    arrays = _load(bundle)
    results: list[GraphParity] = []
    for name, session in model.sessions.items():
        spec = session.spec
        inputs = {t.name: _stored(bundle, arrays, f"{name}/in/{t.name}") for t in spec.inputs}
        output = session.spec.outputs[0].name
        wanted = _stored(bundle, arrays, f"{name}/out/{output}")
        found = session.run(inputs)[output]
        pair = in_one_order(output, found), in_one_order(output, wanted)
        results += compare_graph(name, [pair], GATES[model.graph_precision(name)])
    return tuple(results)


def replay_chain(model: OpenedBundle, gate: Gate) -> EndToEndParity | None:
    """Run the stored small slide through all graphs, and compare its expression with PyTorch's.

    Returns:
        The comparison; None for a bundle of version 0.1, which has no such slide.

    Raises:
        BundleError: The stored arrays cannot be read.
    """
    bundle = model.bundle
    arrays = _load(bundle)
    if f"{CHAIN}/expression" not in arrays:
        return None
    table = f"{CHAIN}/table/"
    around = _stored(bundle, arrays, f"{CHAIN}/around")
    known = {name.removeprefix(table): a for name, a in arrays.items() if name.startswith(table)}
    known |= {TILES.name: _stored(bundle, arrays, f"{CHAIN}/tiles"), "mask": around >= 0}
    masked: dict[str, NDArray[Any]] = {}
    for name, session in model.sessions.items():
        spec = session.spec
        known |= session.run({t.name: chained_input(t, known, masked, around) for t in spec.inputs})
        if name == "tile_encoder":
            masked = session.run({TILES.name: _stored(bundle, arrays, f"{CHAIN}/masked_tile")})
    wanted = _stored(bundle, arrays, f"{CHAIN}/expression")
    return compare_end_to_end(known["expression"], wanted, gate)


def chained_input(
    tensor: TensorSpec,
    known: Mapping[str, NDArray[Any]],
    masked: Mapping[str, NDArray[Any]],
    around: NDArray[np.int64],
) -> NDArray[Any]:
    """Return one input of a graph, made of the outputs of the graphs before it.

    Args:
        tensor: The input.
        known: Inputs of the slide and outputs of earlier graphs, by name; a row per spot.
        masked: Features (1, F) of a masked neighbor, by name.
        around: (N, 25) index of each neighbor among the spots, -1 if it is masked.
    """
    values = known[tensor.name]
    if values.ndim < len(tensor.axes):
        return np.vstack([values, masked[tensor.name]])[around]  # -1 is the last row
    return values


def _stored(bundle: Bundle, arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise BundleError(f"{bundle.path / PARITY_INPUTS}: no '{name}'; export the bundle again")
    return arrays[name]


def _load(bundle: Bundle) -> Mapping[str, NDArray[Any]]:
    path: Path = bundle.path / PARITY_INPUTS
    return read_npz(path, BundleError, "cannot be read", "export the bundle again")
