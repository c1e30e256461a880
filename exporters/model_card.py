"""Write the README of a bundle: what it predicts, at which scale, and how it was checked."""

from __future__ import annotations

from collections.abc import Mapping

from triplex_deploy.bundle import PARITY
from triplex_deploy.contract import TILE_PX
from triplex_deploy.exporters.int8 import Quantization
from triplex_deploy.exporters.parity import ParityReport
from triplex_deploy.models import Checkpoint
from triplex_deploy.reliability import RELIABILITY


def model_card(checkpoint: Checkpoint, report: ParityReport, precisions: Mapping[str, str]) -> str:
    """Return the README as Markdown; ``precisions`` has the precision of each graph."""
    genes = ", ".join(checkpoint.genes[:8]) + (", ..." if len(checkpoint.genes) > 8 else "")
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED (kept by --allow-parity-failure)"
    summary = {
        "Predicts": f"{len(checkpoint.genes)} genes per spot: {genes}",
        "Reads": f"tiles of {TILE_PX} px = {TILE_PX * checkpoint.tile_mpp:g} um, RGB, H&E",
        **_neighbors(checkpoint),
        "Units of the output": _units(checkpoint),
        **_held_out(checkpoint),
        "Precision": _precision(precisions),
        **_quantization(report.quantization),
        "Parity with PyTorch fp32": f"{verdict}; worst graph {worst.graph}, relative error "
        f"{worst.relative:.1e}; least per-gene correlation {report.end_to_end.min_gene_pcc:.7f}; "
        f"all numbers in `{PARITY}`",
    }
    note = checkpoint.provenance.get("note")
    lines = [
        f"# {checkpoint.config.title} bundle: {len(checkpoint.genes)} genes at "
        f"{checkpoint.tile_mpp:g} um/px",
        "",
        *([f"> {' '.join(str(note).split())}", ""] if note else []),
        *(f"- **{name}**: {value}" for name, value in summary.items()),
        "",
        "Use it with `triplex-deploy predict SLIDE --bundle THIS_FOLDER --out DIR`; check it with",
        "`triplex-deploy verify THIS_FOLDER`. `manifest.json` lists every graph with its tensors",
        "and checksum, the genes in order, and the origin of the weights.",
        "",
    ]
    return "\n".join(lines)


def _neighbors(checkpoint: Checkpoint) -> dict[str, str]:
    """Return a line about a shared neighborhood; nothing if it is exact."""
    neighbors = checkpoint.config.neighbors
    return {"Neighbor tiles": str(neighbors)} if neighbors.is_shared else {}


def _held_out(checkpoint: Checkpoint) -> dict[str, str]:
    """Return a line about calibration and one about reliability; nothing of a model without."""
    lines = {}
    if checkpoint.calibration is not None:
        lines["Calibrated"] = "yes, each gene by a line fitted to held-out spots"
    measured = checkpoint.reliability
    if measured is not None:
        lines["Reliability by gene"] = (
            f"{measured.description}; they support {int(measured.is_supported.sum())} of "
            f"{measured.n_genes} genes; all numbers in `{RELIABILITY}`"
        )
    return lines


def _quantization(graphs: Mapping[str, Quantization]) -> dict[str, str]:
    """Return a line about the layers in int8 and a line about CPUs, or nothing without int8."""
    if not graphs:
        return {}
    shares = "; ".join(
        f"{name}: {100 * graph.int8_share:.1f} % of the multiplications, all but "
        f"{', '.join(f'`{layer}`' for layer in graph.float_layers)}"
        for name, graph in graphs.items()
    )
    eight_bits = any(graph.weight_bits == 8 for graph in graphs.values())
    needs = (
        "weights of 8 bits, for CPUs with VNNI. On other CPUs ONNX Runtime may overflow, which the "
        "check at the first use finds; for these use `export --int8-weights 7`"
        if eight_bits
        else "weights of 7 bits, for every CPU"
    )
    return {"Convolutions in int8": shares, "CPUs": needs}


def _units(checkpoint: Checkpoint) -> str:
    steps = [f"{key} {value}" for key, value in checkpoint.label_transform.items()]
    return ", ".join(steps) or "not recorded in the checkpoint"


def _precision(precisions: Mapping[str, str]) -> str:
    """Return the precision of all graphs, or the graphs of each precision."""
    graphs: dict[str, list[str]] = {}
    for graph, precision in precisions.items():
        graphs.setdefault(precision, []).append(graph)
    if len(graphs) == 1:
        return next(iter(graphs))
    return "; ".join(f"{precision} in {', '.join(names)}" for precision, names in graphs.items())
