"""How far an exported graph may stray from PyTorch fp32, and the measures that decide it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Gate:
    """Limits for one precision; None means that measure does not decide."""

    max_relative: float | None
    """Largest absolute error over the output's range."""
    min_cosine: float | None
    median_gene_pcc: float
    """Median over genes of the Pearson correlation, end to end."""
    min_gene_pcc: float | None


GATES: Final = {
    "fp32": Gate(max_relative=1e-4, min_cosine=None, median_gene_pcc=0.99999, min_gene_pcc=0.99999),
    "int8": Gate(max_relative=None, min_cosine=0.99, median_gene_pcc=0.99, min_gene_pcc=0.95),
}


@dataclass(frozen=True)
class GraphParity:
    """One graph at one size against PyTorch; ``relative`` is ``max_abs`` over ``output_range``."""

    graph: str
    size: int
    max_abs: float
    output_range: float
    relative: float
    cosine: float
    finite: bool
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EndToEndParity:
    """Expression of one synthetic slide, all graphs chained, against PyTorch."""

    spots: int
    max_abs: float
    median_gene_pcc: float
    min_gene_pcc: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Floats = NDArray[np.floating[Any]]


def compare_graph(graph: str, size: int, found: Floats, wanted: Floats, gate: Gate) -> GraphParity:
    """Measure ``found`` against ``wanted`` (any equal shape) and apply ``gate``."""
    max_abs = float(np.abs(found - wanted).max())
    output_range = float(wanted.max() - wanted.min())
    relative = max_abs / output_range if output_range > 0 else (0.0 if max_abs == 0 else np.inf)
    cosine = _cosine(found, wanted)
    finite = bool(np.isfinite(found).all())
    passed = (
        finite
        and (gate.max_relative is None or relative <= gate.max_relative)
        and (gate.min_cosine is None or cosine >= gate.min_cosine)
    )
    return GraphParity(graph, size, max_abs, output_range, relative, cosine, finite, passed)


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
    """Pearson correlation per gene (G,); a gene constant in both counts as 1, in one as 0."""
    a = found.astype(np.float64) - found.mean(axis=0, dtype=np.float64)
    b = wanted.astype(np.float64) - wanted.mean(axis=0, dtype=np.float64)
    norms = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)
    scale = norms[0] * norms[1]
    both_constant = (norms[0] == 0) & (norms[1] == 0)
    pcc = np.divide((a * b).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.where(both_constant, 1.0, pcc)


def _cosine(found: Floats, wanted: Floats) -> float:
    a, b = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b) / norm
