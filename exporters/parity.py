"""Compare exported graphs with PyTorch fp32, each graph alone and all together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.contract import (
    NEIGHBORHOOD,
    TILES,
    GraphSpec,
    graph_specs,
)
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.exporters.inputs import SEED, graph_inputs, tiles
from triplex_deploy.exporters.int8 import Quantization
from triplex_deploy.exporters.lookup import without_ties
from triplex_deploy.exporters.reference import Reference, SmallSlide
from triplex_deploy.runtime.gates import (
    EndToEndParity,
    GraphParity,
    compare_end_to_end,
    compare_graph,
    in_one_order,
)
from triplex_deploy.runtime.replay import CHAIN, chained_input
from triplex_deploy.runtime.session import Session
from triplex_deploy.system import usable_cores
from triplex_deploy.tiles.masked_neighbor import mean_color_tile
from triplex_deploy.tiles.spot_tables import spot_tables

SIZES: Final = {
    "tile_encoder": (1, 4, 16),
    "target_encoder": (1, 4, 16),
    "neighbor_encoder": (1, 32, 256),
    "global_encoder": (1, 200, 2000),
    "retrieval": (1, 32, 256),
    "fusion_head": (1, 32, 256),
}
"""Tiles or spots of each comparison: a single row, a usual batch and a large batch."""

GRID_SIDE: Final = 5
"""The end-to-end comparison predicts GRID_SIDE x GRID_SIDE spots; neighbors outside are masked."""

MAX_TIES: Final = 0.1
"""Largest share of spots that may be skipped because rounding decides what is looked up."""

STORED_SIZE: Final = 4
"""Number of rows of the inputs and outputs that the bundle stores for ``verify``. The encoders are
compared at this size anyway."""
MAX_WORKERS: Final = 4
"""Largest number of comparisons at once; each holds the tensors of one run."""
TRIES: Final = 20
"""Number of seeds that are tried to find stored inputs without ties."""


@dataclass(frozen=True)
class ParityReport:
    """Holds the results of comparing the graphs of a bundle with PyTorch."""

    precision: str
    """Precision of the bundle."""
    graphs: tuple[GraphParity, ...]
    """One result per graph and size."""
    end_to_end: EndToEndParity
    """The result of all graphs together."""
    quantization: Mapping[str, Quantization] = field(default_factory=dict)
    """How each int8 graph for ONNX Runtime was quantized; empty for other precisions."""

    @property
    def passed(self) -> bool:
        """True if every comparison is within its gate, so that the bundle may be written."""
        return self.end_to_end.passed and all(graph.passed for graph in self.graphs)

    def failures(self) -> list[str]:
        """Return a phrase for each comparison outside its gate, with the graph and the error."""
        missed = [
            f"{g.graph} at size {g.size}: relative error {g.relative:.1e}, cosine {g.cosine:.6f}"
            for g in self.graphs
            if not g.passed
        ]
        if not self.end_to_end.passed:
            missed.append(
                f"end to end: per-gene PCC {self.end_to_end.median_gene_pcc:.6f} in the median, "
                f"{self.end_to_end.min_gene_pcc:.6f} at the least"
            )
        return missed

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``parity.json``."""
        quantization = {name: graph.to_dict() for name, graph in self.quantization.items()}
        return {
            "passed": self.passed,
            "precision": self.precision,
            "reference": f"torch {torch.__version__} fp32",
            "gate": asdict(precision_of(self.precision).gate),
            "seed": SEED,
            "graphs": [graph.to_dict() for graph in self.graphs],
            "end_to_end": self.end_to_end.to_dict(),
            **({"quantization": quantization} if quantization else {}),
        }


def measure_parity(
    reference: Reference,
    sessions: Mapping[str, Session],
    precisions: Mapping[str, str],
    precision: str,
    slide_tiles: NDArray[np.uint8] | None = None,
    usual_sizes: Mapping[str, int] | None = None,
) -> ParityReport:
    """Compare every graph at three sizes, and the prediction of a small slide by all graphs.

    Args:
        reference: The model in PyTorch.
        sessions: The graphs by name.
        precisions: The precision of each graph, which decides its gate.
        precision: The precision of the bundle, which decides the gate of the prediction.
        slide_tiles: Tiles (T, 224, 224, 3) of real slides, one more input for the graphs of tiles.
        usual_sizes: One more size of a graph, by name, such as the usual number of spots: sums over
            many spots round more than those over few.

    Returns:
        The results; nothing is raised for a comparison outside its gate.
    """
    more = usual_sizes or {}
    with _workers() as workers:
        slide = _grid_slide(reference)
        by_graphs = workers.submit(_predict_grid, reference, sessions, slide)
        by_model = workers.submit(reference.predict, slide)
        pending = {
            name: [
                workers.submit(_compared, reference, session, inputs)
                for inputs in _graph_cases(reference, session.spec, slide_tiles, more.get(name))
            ]
            for name, session in sessions.items()
        }
        compared = {name: [case.result() for case in cases] for name, cases in pending.items()}
        found, without = by_graphs.result()
        kept = without if (~without).mean() <= MAX_TIES else np.ones_like(without)
        end_to_end = compare_end_to_end(
            found[kept], by_model.result()[kept], precision_of(precision).gate
        )
    graphs: list[GraphParity] = []
    for name, cases in compared.items():
        outputs = [(output, expected) for output, expected, _ in cases]
        results = compare_graph(name, outputs, precision_of(precisions[name]).gate)
        graphs += [
            replace(result, ties_skipped=skipped)
            for result, (_, _, skipped) in zip(results, cases, strict=True)
        ]
    skipped = int((~kept).sum())
    return ParityReport(precision, tuple(graphs), replace(end_to_end, ties_skipped=skipped))


def session_threads() -> int:
    """Return the number of threads of each graph while parity is measured."""
    return max(1, usable_cores() // MAX_WORKERS)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that compares several graphs at once, so that few threads wait for each other.

    PyTorch uses ``session_threads`` threads per worker, and as many as before afterwards. An error
    cancels what has not begun.
    """
    before, threads = torch.get_num_threads(), session_threads()
    pool = ThreadPoolExecutor(
        min(usable_cores(), MAX_WORKERS), "parity", torch.set_num_threads, (threads,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def store_parity_inputs(path: Path, specs: Mapping[str, GraphSpec], reference: Reference) -> None:
    """Write inputs of graphs and of a chain with PyTorch's outputs, for ``replay``.

    Inputs are named ``<graph>/in/<name>``, outputs ``<graph>/out/<name>``.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for graph, spec in specs.items():
        inputs = _inputs_without_ties(reference, spec)
        arrays |= {f"{graph}/in/{name}": array for name, array in inputs.items()}
        arrays[f"{graph}/out/{spec.outputs[0].name}"] = reference.run(graph, inputs)
    arrays |= _stored_chain(reference)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _stored_chain(reference: Reference) -> dict[str, NDArray[Any]]:
    """Return the synthetic slide and PyTorch's expression of it, for ``replay_chain``."""
    slide = _grid_slide(reference)
    return {
        f"{CHAIN}/tiles": slide.tiles,
        f"{CHAIN}/masked_tile": mean_color_tile(),
        f"{CHAIN}/around": slide.around,
        f"{CHAIN}/expression": reference.predict(slide),
        **{f"{CHAIN}/table/{name}": table for name, table in slide.tables.items()},
    }


def _inputs_without_ties(reference: Reference, spec: GraphSpec) -> dict[str, NDArray[Any]]:
    """Return the inputs of the first seed that has no ties, or else of the last seed."""
    for seed in range(SEED, SEED + TRIES):
        inputs = graph_inputs(spec, STORED_SIZE, seed, _n_positions(reference))
        if without_ties(reference.model, spec, inputs).all():
            break
    return inputs


def _n_positions(reference: Reference) -> int:
    """Return the number of rows and columns of the array that the model has embeddings for."""
    return int(getattr(reference.model.config, "n_positions", 1))


def _graph_cases(
    reference: Reference,
    spec: GraphSpec,
    slide_tiles: NDArray[np.uint8] | None,
    usual_size: int | None,
) -> list[dict[str, NDArray[Any]]]:
    n_positions = _n_positions(reference)
    sizes = dict.fromkeys((*SIZES[spec.name], *([usual_size] if usual_size else [])))
    cases = [graph_inputs(spec, size, SEED, n_positions) for size in sizes]
    if slide_tiles is not None and spec.kind == "per tile":
        cases.append({TILES.name: slide_tiles})
    return cases


def _compared(
    reference: Reference, session: Session, inputs: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Return a graph's output, PyTorch's output, and the number of rows that were not compared.

    In these rows rounding decides which training spots are looked up, and the graph's output is
    replaced by PyTorch's. If they are more than ``MAX_TIES`` of all rows, all rows are compared.
    """
    spec = session.spec
    name = spec.outputs[0].name
    found, wanted = (
        in_one_order(name, output)
        for output in (_run(session, inputs), reference.run(spec.name, inputs))
    )
    ties = ~without_ties(reference.model, spec, inputs)
    if ties.mean() > MAX_TIES:
        return found, wanted, 0
    found[ties] = wanted[ties]
    return found, wanted, int(ties.sum())


def _run(session: Session, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the output of a graph; its inputs are taken from ``known`` by name."""
    inputs = {tensor.name: known[tensor.name] for tensor in session.spec.inputs}
    (output,) = session.run(inputs).values()
    return output


def _predict_grid(
    reference: Reference, sessions: Mapping[str, Session], slide: SmallSlide
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return expression (spots, G) of a slide by the graphs, and at which spots it can be compared.

    At the others rounding decides what is looked up.
    """
    known: dict[str, NDArray[Any]] = {
        "tiles": slide.tiles,
        "mask": slide.around >= 0,
        **slide.tables,
    }
    masked: dict[str, NDArray[Any]] = {}
    without = np.ones(len(slide.tiles), bool)
    for name in graph_specs(reference.model.config):
        spec = sessions[name].spec
        given = {t.name: chained_input(t, known, masked, slide.around) for t in spec.inputs}
        without &= without_ties(reference.model, spec, given)
        known[spec.outputs[0].name] = _run(sessions[name], given)
        if name == "tile_encoder":
            masked[spec.outputs[0].name] = _run(sessions[name], {"tiles": mean_color_tile()})
    return known["expression"], without


def _grid_slide(reference: Reference) -> SmallSlide:
    """Return a slide of GRID_SIDE x GRID_SIDE spots that are neighbors of each other."""
    spots = GRID_SIDE**2
    shape = (spots, *(int(axis) for axis in TILES.axes[1:]))
    images = tiles(shape, np.random.default_rng(SEED))
    grid_rc = np.stack(np.divmod(np.arange(spots), GRID_SIDE), axis=1)
    return SmallSlide(images, _lattice(NEIGHBORHOOD), spot_tables(reference.model.config, grid_rc))


def _lattice(window: int) -> NDArray[np.int64]:
    """Return for each cell of the grid its window x window neighbors, -1 outside the grid."""
    reach = window // 2
    cells = np.arange(GRID_SIDE**2, dtype=np.int64).reshape(GRID_SIDE, GRID_SIDE)
    padded = np.pad(cells, reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window))
    return np.ascontiguousarray(windows.reshape(GRID_SIDE**2, window * window))
