"""The parity gate: exported graphs against PyTorch fp32, one by one and chained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.gates import (
    GATES,
    EndToEndParity,
    GraphParity,
    compare_end_to_end,
    compare_graph,
)
from exporters.inputs import SEED, graph_inputs, tiles
from exporters.reference import Reference
from triplex_deploy.contract import NEIGHBORHOOD, TILES, GraphSpec
from triplex_deploy.runtime.session import Session

SIZES: Final = {
    "tile_encoder": (1, 4, 16),
    "target_encoder": (1, 4, 16),
    "neighbor_encoder": (1, 32, 256),
    "global_encoder": (1, 200, 2000),
    "fusion_head": (1, 32, 256),
}
"""Batch or spots at which each graph is compared: one, typical, many."""

GRID_SIDE: Final = 5
"""The end-to-end comparison predicts a GRID_SIDE x GRID_SIDE slide, edges masked."""

STORED_SIZE: Final = 3
"""Batch of the inputs and reference outputs kept in the bundle for ``verify``."""


@dataclass(frozen=True)
class ParityReport:
    """Everything the gate measured; ``passed`` decides whether the bundle may exist."""

    precision: str
    graphs: tuple[GraphParity, ...]
    end_to_end: EndToEndParity

    @property
    def passed(self) -> bool:
        return self.end_to_end.passed and all(graph.passed for graph in self.graphs)

    def failures(self) -> list[str]:
        """One phrase per missed gate, naming the graph and by how much."""
        missed = [
            f"{g.graph} at size {g.size}: relative error {g.relative:.1e}, cosine {g.cosine:.6f}"
            for g in self.graphs
            if not g.passed
        ]
        if not self.end_to_end.passed:
            missed.append(f"end to end: least per-gene PCC {self.end_to_end.min_gene_pcc:.6f}")
        return missed

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "precision": self.precision,
            "reference": f"torch {torch.__version__} fp32",
            "gate": asdict(GATES[self.precision]),
            "seed": SEED,
            "graphs": [graph.to_dict() for graph in self.graphs],
            "end_to_end": self.end_to_end.to_dict(),
        }


def measure_parity(
    reference: Reference,
    sessions: Mapping[str, Session],
    precisions: Mapping[str, str],
    precision: str,
    slide_tiles: NDArray[np.uint8] | None = None,
) -> ParityReport:
    """Compare every graph at three sizes and the chained prediction of a small slide.

    Each graph answers to the gate of its own precision in ``precisions``, the chain to that of the
    bundle. ``slide_tiles`` (T, 224, 224, 3), where given, are one more size of the image graphs.
    """
    graphs: list[GraphParity] = []
    for name, session in sessions.items():
        cases = _graph_cases(session.spec, slide_tiles)
        outputs = [(_run(session, inputs), reference.run(name, inputs)) for inputs in cases]
        graphs += compare_graph(name, outputs, GATES[precisions[name]])
    end_to_end = compare_end_to_end(*_predict_grid(reference, sessions), GATES[precision])
    return ParityReport(precision, tuple(graphs), end_to_end)


def store_parity_inputs(path: Path, specs: Mapping[str, GraphSpec], reference: Reference) -> None:
    """Write ``<graph>/in/<name>`` inputs and ``<graph>/out/<name>`` PyTorch outputs for replay."""
    arrays: dict[str, NDArray[Any]] = {}
    for graph, spec in specs.items():
        inputs = graph_inputs(spec, STORED_SIZE)
        arrays |= {f"{graph}/in/{name}": array for name, array in inputs.items()}
        arrays[f"{graph}/out/{spec.outputs[0].name}"] = reference.run(graph, inputs)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _graph_cases(
    spec: GraphSpec, slide_tiles: NDArray[np.uint8] | None
) -> list[dict[str, NDArray[Any]]]:
    cases = [graph_inputs(spec, size) for size in SIZES[spec.name]]
    if slide_tiles is not None and spec.inputs == (TILES,):
        cases.append({TILES.name: slide_tiles})
    return cases


def _run(session: Session, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The output of a graph, its inputs picked by name from what is known."""
    inputs = {tensor.name: known[tensor.name] for tensor in session.spec.inputs}
    (output,) = session.run(inputs).values()
    return output


def _predict_grid(
    reference: Reference, sessions: Mapping[str, Session]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expression (spots, G) of a synthetic grid slide: all graphs chained, and PyTorch."""
    spots = GRID_SIDE**2
    shape = (spots, *(int(axis) for axis in TILES.axes[1:]))
    images = tiles(shape, np.random.default_rng(SEED))
    around, table = _lattice(NEIGHBORHOOD), _lattice(reference.model.config.apeg_kernel)
    known: dict[str, NDArray[Any]] = {"tiles": images, "mask": around >= 0, "apeg_index": table}
    if "tile_encoder" in sessions:
        known["features"] = _run(sessions["tile_encoder"], known)
    for name in sessions.keys() - {"tile_encoder", "fusion_head"}:
        given = dict(known)
        if name == "neighbor_encoder":
            off_slide = np.zeros_like(known["features"][:1])  # index -1 finds it
            given["features"] = np.vstack([known["features"], off_slide])[around]
        (output,) = sessions[name].spec.outputs
        known[output.name] = _run(sessions[name], given)
    return _run(sessions["fusion_head"], known), reference.predict(images, around, table)


def _lattice(window: int) -> NDArray[np.int64]:
    """For each grid cell the cells of its window x window surroundings, -1 off the grid."""
    reach = window // 2
    cells = np.arange(GRID_SIDE**2, dtype=np.int64).reshape(GRID_SIDE, GRID_SIDE)
    padded = np.pad(cells, reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
    return np.ascontiguousarray(windows.reshape(GRID_SIDE**2, window * window))
