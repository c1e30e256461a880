"""How far an exported graph may stray from PyTorch fp32, and the measures that decide it."""

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
    """One graph at one size against PyTorch; ``relative`` is ``max_abs`` over ``output_range``.

    ``excused`` of the rows were not compared: rounding decides which training spots they look up.
    """

    graph: str
    size: int
    max_abs: float
    output_range: float
    relative: float
    cosine: float
    finite: bool
    passed: bool
    excused: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EndToEndParity:
    """Expression of one synthetic slide, all graphs chained, against PyTorch.

    ``spots`` were compared; ``excused`` more were not, as in ``GraphParity``.
    """

    spots: int
    max_abs: float
    median_gene_pcc: float
    min_gene_pcc: float
    passed: bool
    excused: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ROUNDING: Final = 1e-4
"""Spread over magnitude below which float32 sums of some thousand terms say nothing of a gene."""

Floats = NDArray[np.floating[Any]]


def compare_graph(
    graph: str, outputs: Sequence[tuple[Floats, Floats]], gate: Gate
) -> list[GraphParity]:
    """Measure (found, wanted) outputs of one graph, a pair per size, and apply ``gate``.

    The output's range is taken over all sizes together: one row of one gene has none.
    """
    output_range = float(np.ptp(np.concatenate([wanted.ravel() for _, wanted in outputs])))
    return [_compare(graph, found, wanted, output_range, gate) for found, wanted in outputs]


def _compare(
    graph: str, found: Floats, wanted: Floats, output_range: float, gate: Gate
) -> GraphParity:
    finite = bool(np.isfinite(found).all())
    max_abs = float(np.abs(found - wanted).max()) if finite else sys.float_info.max
    relative = max_abs / output_range if output_range > 0 else max_abs
    cosine = _cosine(found, wanted) if finite else 0.0
    passed = (
        finite
        and (gate.max_relative is None or relative <= gate.max_relative)
        and (gate.min_cosine is None or cosine >= gate.min_cosine)
    )
    return GraphParity(graph, len(wanted), max_abs, output_range, relative, cosine, finite, passed)


def compare_end_to_end(found: Floats, wanted: Floats, gate: Gate) -> EndToEndParity:
    """Measure expression (N, G) per gene over the N spots and apply ``gate``."""
    pcc = gene_pcc(found, wanted)
    median, least = float(np.median(pcc)), float(pcc.min())
    passed = median >= gate.median_gene_pcc and (
        gate.min_gene_pcc is None or least >= gate.min_gene_pcc
    )
    return EndToEndParity(
        len(found), float(np.abs(found - wanted).max()), median, least, bool(passed)
    )


def gene_pcc(found: Floats, wanted: Floats) -> NDArray[np.float64]:
    """Pearson correlation per gene (G,).

    A gene that varies by less than float32 rounding of its own size is constant: such genes count
    as 1 where both are constant and as 0 where one is.
    """
    a, a_constant = _centred(found)
    b, b_constant = _centred(wanted)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    pcc: NDArray[np.float64] = np.zeros_like(scale)
    np.divide((a * b).sum(axis=0), scale, out=pcc, where=scale > 0)
    pcc[a_constant | b_constant] = 0.0
    pcc[a_constant & b_constant] = 1.0
    return pcc


def _centred(values: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values minus their gene's mean, and which genes are constant up to rounding."""
    exact = values.astype(np.float64)
    rounding = ROUNDING * np.abs(exact).max(axis=0)
    return exact - exact.mean(axis=0), np.ptp(exact, axis=0) <= rounding


def _cosine(found: Floats, wanted: Floats) -> float:
    a, b = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b) / norm
