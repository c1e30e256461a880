"""``triplex-deploy export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from triplex_deploy.cli.shared import common_options, print_summary


@click.command(epilog="Example: triplex-deploy export model.ckpt --out bundle/")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle to create.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--allow-parity-failure",
    is_flag=True,
    help="Keep a bundle that differs from PyTorch beyond its gate, marked as such.",
)
@common_options
def command(
    checkpoint: Path, out: Path, force: bool, allow_parity_failure: bool, as_json: bool
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX graphs (fp32, ONNX Runtime).

    Every graph is compared with PyTorch on the way; a bundle that strays is not written.
    """
    from exporters.export import ExportOptions, export_bundle

    bundle, report = export_bundle(checkpoint, out, ExportOptions(force, allow_parity_failure))
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED"
    print_summary(
        as_json,
        {"bundle": str(out), "bundle_id": bundle.id, "parity": report.to_dict()},
        [
            f"bundle {bundle.id} written to {out} ({len(bundle.manifest.genes)} genes, "
            f"{bundle.manifest.tile_mpp:g} um/px)",
            f"parity with PyTorch {verdict}: worst graph {worst.graph}, relative error "
            f"{worst.relative:.1e}; least per-gene correlation "
            f"{report.end_to_end.min_gene_pcc:.7f}",
        ],
    )
