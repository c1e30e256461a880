"""How exact a bundle is, as its own parity check recorded it; a benchmark measures none itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triplex_deploy.bench.result import Accuracy
from triplex_deploy.bundle import Target, parity_file


def read_accuracy(bundle: Path, target: Target) -> tuple[Accuracy | None, str | None]:
    """What the export found of the graphs for ``target``, or None and the reason why not."""
    name = parity_file(target)
    try:
        report = json.loads((bundle / name).read_text(encoding="utf-8"))
        return _accuracy(report, name), None
    except OSError as error:
        return None, f"{name} cannot be read ({error.strerror})"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        return None, f"{name} is of another form ({type(error).__name__}: {error})"


def _accuracy(report: dict[str, Any], source: str) -> Accuracy:
    graphs, chain = report["graphs"], report["end_to_end"]
    worst = max(graphs, key=lambda graph: float(graph["relative"]))
    return Accuracy(
        source=source,
        passed=bool(report["passed"]),
        reference=str(report["reference"]),
        worst_graph=str(worst["graph"]),
        worst_relative=float(worst["relative"]),
        least_cosine=min(float(graph["cosine"]) for graph in graphs),
        median_gene_pcc=float(chain["median_gene_pcc"]),
        min_gene_pcc=float(chain["min_gene_pcc"]),
    )
