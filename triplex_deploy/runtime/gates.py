"""Compare outputs of an exported graph with PyTorch fp32, and decide if they are close enough."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract.precision import PRECISIONS, Gate

GATES: Final = {name: precision.gate for name, precision in PRECISIONS.items()}
"""The gate of each precision, from the table of precisions."""


@dataclass(frozen=True)
class GraphParity:
    """The comparison of one graph with PyTorch at one size."""

    graph: str
    """Name of the graph."""
    size: int
    """Number of tiles or spots in the input."""
    max_abs: float
    """Largest absolute difference of any value."""
    output_range: float
    """Largest minus smallest value of PyTorch's output, over all sizes."""
    relative: float
    """``max_abs / output_range``; ``max_abs`` if the range is zero."""
    cosine: float
    """Cosine of the angle between the two outputs as vectors."""
    finite: bool
    """True if the graph's output has no NaN and no infinity."""
    passed: bool
    """True if the output is within the gate."""
    ties_skipped: int = 0
    """Rows that were not compared, because rounding decides which training spots they look up."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as in ``parity.json``."""
        return asdict(self)


@dataclass(frozen=True)
class EndToEndParity:
    """The comparison of one synthetic slide's expression, through all graphs, with PyTorch."""

    spots: int
    """Number of spots that were compared."""
    max_abs: float
    """Largest absolute difference, in units of the prediction."""
    median_gene_pcc: float
    """Pearson correlation between graphs and PyTorch over the spots, median of the genes."""
    min_gene_pcc: float
    """The same correlation, of the worst gene."""
    passed: bool
    """True if the correlations are within the gate."""
    ties_skipped: int = 0
    """Spots that were not compared, because rounding decides which training spots they look up."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as in ``parity.json``."""
        return asdict(self)


UNORDERED: Final = ("exemplars",)
"""Tensors (B, k, ...) that are sets of k rows, whose order is free where two are equally near."""
ROUNDING: Final = 1e-4
"""Relative spread below which a gene counts as constant, because of rounding in float32 sums."""

Floats = NDArray[np.floating[Any]]


def compare_graph(
    graph: str, outputs: Sequence[tuple[Floats, Floats]], gate: Gate
) -> list[GraphParity]:
    """Compare the outputs of one graph and apply a gate.

    The range of the output is taken over all sizes together, because a single row of a single gene
    has no range.

    Args:
        graph: Name of the graph.
        outputs: The graph's output and PyTorch's output, one pair per size.
        gate: The limits.

    Returns:
        One result per pair.
    """
    output_range = float(np.ptp(np.concatenate([wanted.ravel() for _, wanted in outputs])))
    return [_compare(graph, found, wanted, output_range, gate) for found, wanted in outputs]


def _compare(
    graph: str, found: Floats, wanted: Floats, output_range: float, gate: Gate
) -> GraphParity:
    finite = bool(np.isfinite(found).all())
    max_abs = float(np.abs(found - wanted).max()) if finite else sys.float_info.max
    relative = max_abs / output_range if output_range > 0 else max_abs
    cosine = cosine_of(found, wanted) if finite else 0.0
    passed = (
        finite
        and (gate.max_relative is None or relative <= gate.max_relative)
        and (gate.min_cosine is None or cosine >= gate.min_cosine)
    )
    return GraphParity(graph, len(wanted), max_abs, output_range, relative, cosine, finite, passed)


def compare_end_to_end(found: Floats, wanted: Floats, gate: Gate) -> EndToEndParity:
    """Compare expression (N, G) gene by gene over the N spots and apply a gate."""
    pcc = gene_pcc(found, wanted)
    median, least = float(np.median(pcc)), float(pcc.min())
    passed = median >= gate.median_gene_pcc and (
        gate.min_gene_pcc is None or least >= gate.min_gene_pcc
    )
    return EndToEndParity(
        len(found), float(np.abs(found - wanted).max()), median, least, bool(passed)
    )


def gene_pcc(found: Floats, wanted: Floats) -> NDArray[np.float64]:
    """Return the Pearson correlation per gene (G,) of expression (N, G).

    A gene is constant if it varies by less than the float32 rounding of its own size. The
    correlation is then 1 if it is constant in both arrays, and 0 if it is in only one.
    """
    a, a_constant = _centered(found)
    b, b_constant = _centered(wanted)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    pcc: NDArray[np.float64] = np.zeros_like(scale)
    np.divide((a * b).sum(axis=0), scale, out=pcc, where=scale > 0)
    pcc[a_constant | b_constant] = 0.0
    pcc[a_constant & b_constant] = 1.0
    return pcc


def _centered(values: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values minus each gene's mean, and which genes (G,) are constant up to rounding."""
    exact = values.astype(np.float64)
    rounding = ROUNDING * np.abs(exact).max(axis=0)
    return exact - exact.mean(axis=0), np.ptp(exact, axis=0) <= rounding


def cosine_of(found: Floats, wanted: Floats) -> float:
    """Return the cosine of the angle between two arrays, taken as vectors."""
    a, b = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b) / norm


def in_one_order(tensor: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of an unordered tensor sorted, so that equal sets are equal arrays.

    The values of other tensors are returned unchanged. Each column is sorted alone, so two
    different sets become equal only by coincidence.
    """
    return np.sort(values, axis=1) if tensor in UNORDERED else values
