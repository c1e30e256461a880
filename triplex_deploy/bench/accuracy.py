"""Find out how far an opened bundle differs from PyTorch in fp32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from triplex_deploy.bench.result import Accuracy
from triplex_deploy.bundle import PARITY_INPUTS, Target, parity_file
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BundleError
from triplex_deploy.runtime.gates import EndToEndParity, GraphParity
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.replay import replay_chain, replay_parity

HERE: Final = f"{PARITY_INPUTS}, run on this machine"
"""Source of an accuracy that was measured by running the stored inputs again."""


def measure_accuracy(model: Model) -> tuple[Accuracy | None, str | None]:
    """Run the inputs stored in a bundle again, in the backend and precision of the model.

    A bundle of version 0.1 stores no small slide. Then the accuracy is what the export found, and
    ``source`` names the file.

    Args:
        model: The opened bundle.

    Returns:
        The accuracy, or None and the reason.
    """
    try:
        chain = replay_chain(model, precision_of(model.precision).gate)
        if chain is not None:
            return _measured(replay_parity(model), chain), None
    except BundleError as error:
        return None, str(error)
    return read_accuracy(model.bundle.path, model.target)


def read_accuracy(bundle: Path, target: Target) -> tuple[Accuracy | None, str | None]:
    """Return what the export found of the graphs for ``target``, or None and the reason."""
    name = parity_file(target)
    try:
        report = json.loads((bundle / name).read_text(encoding="utf-8"))
        return _exported(report, name), None
    except OSError as error:
        return None, f"{name} cannot be read ({error.strerror})"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        return None, f"{name} has another form ({type(error).__name__}: {error})"


def _measured(graphs: Sequence[GraphParity], chain: EndToEndParity) -> Accuracy:
    worst = max(graphs, key=lambda graph: graph.relative)
    return Accuracy(
        source=HERE,
        passed=chain.passed and all(graph.passed for graph in graphs),
        reference="PyTorch fp32 at the export",
        worst_graph=worst.graph,
        worst_relative=worst.relative,
        least_cosine=min(graph.cosine for graph in graphs),
        median_gene_pcc=chain.median_gene_pcc,
        min_gene_pcc=chain.min_gene_pcc,
    )


def _exported(report: dict[str, Any], source: str) -> Accuracy:
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
