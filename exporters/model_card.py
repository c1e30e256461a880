"""The README of a bundle: what it predicts, at which scale, how it was checked."""

from __future__ import annotations

from exporters.parity import ParityReport
from triplex_deploy.bundle import PARITY
from triplex_deploy.contract import TILE_PX
from triplex_deploy.models import Checkpoint


def model_card(checkpoint: Checkpoint, report: ParityReport) -> str:
    """Markdown for whoever finds the bundle without its history."""
    genes = ", ".join(checkpoint.genes[:8]) + (", ..." if len(checkpoint.genes) > 8 else "")
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED (kept by --allow-parity-failure)"
    facts = {
        "Predicts": f"{len(checkpoint.genes)} genes per spot: {genes}",
        "Reads": f"tiles of {TILE_PX} px = {TILE_PX * checkpoint.tile_mpp:g} um, RGB, H&E",
        "Units of the output": _units(checkpoint),
        "Precision": _precision(report),
        "Parity with PyTorch fp32": f"{verdict}; worst graph {worst.graph}, relative error "
        f"{worst.relative:.1e}; least per-gene correlation {report.end_to_end.min_gene_pcc:.7f}; "
        f"all numbers in `{PARITY}`",
    }
    note = checkpoint.provenance.get("note")
    lines = [
        f"# TRIPLEX bundle: {len(checkpoint.genes)} genes at {checkpoint.tile_mpp:g} um/px",
        "",
        *([f"> {' '.join(str(note).split())}", ""] if note else []),
        *(f"- **{name}**: {value}" for name, value in facts.items()),
        "",
        "Use it with `triplex-deploy predict SLIDE --bundle THIS_FOLDER --out DIR`; check it with",
        "`triplex-deploy verify THIS_FOLDER`. `manifest.json` lists every graph with its tensors",
        "and checksum, the genes in order, and where the weights came from.",
        "",
    ]
    return "\n".join(lines)


def _units(checkpoint: Checkpoint) -> str:
    steps = [f"{key} {value}" for key, value in checkpoint.label_transform.items()]
    return ", ".join(steps) or "not recorded in the checkpoint"


def _precision(report: ParityReport) -> str:
    if report.precision == "fp32":
        return "fp32"
    return f"{report.precision} in the image encoders, fp32 in the transformers"
