"""The README of a bundle: what it predicts, at which scale, how it was checked."""

from __future__ import annotations

from exporters.parity import ParityReport
from triplex_deploy.bundle import PARITY, Manifest


def model_card(manifest: Manifest, report: ParityReport) -> str:
    """Markdown for whoever finds the bundle without its history."""
    genes = ", ".join(manifest.genes[:8]) + (", ..." if len(manifest.genes) > 8 else "")
    tile_um = manifest.tile_px * manifest.tile_mpp
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED (kept by --allow-parity-failure)"
    notes = manifest.provenance.get("note")
    lines = [
        f"# TRIPLEX bundle: {len(manifest.genes)} genes at {manifest.tile_mpp:g} um/px",
        "",
        f"> {notes}" if notes else "",
        "",
        f"- **Predicts** {len(manifest.genes)} genes per spot: {genes}",
        f"- **Reads** tiles of {manifest.tile_px} px = {tile_um:g} um, RGB, from H&E slides",
        f"- **Units** of the output: {_units(manifest)}",
        f"- **Precision**: {manifest.precision}"
        + ("" if manifest.precision == "fp32" else ", image encoders only; transformers fp32"),
        f"- **Parity** with PyTorch fp32: {verdict}; worst graph {worst.graph}, relative error "
        f"{worst.relative:.1e}; least per-gene correlation {report.end_to_end.min_gene_pcc:.7f}. "
        f"All numbers are in `{PARITY}`.",
        "",
        "Use it with `triplex-deploy predict SLIDE --bundle THIS_FOLDER --out DIR`; check it with",
        "`triplex-deploy verify THIS_FOLDER`. `manifest.json` lists every graph with its tensors",
        "and checksum, the genes in order, and where the weights came from.",
        "",
    ]
    return "\n".join(line for i, line in enumerate(lines) if line or lines[i - 1])


def _units(manifest: Manifest) -> str:
    transform = manifest.label_transform
    if not transform:
        return "not recorded in the checkpoint"
    return ", ".join(f"{key} {value}" for key, value in transform.items())
