"""``triplex-deploy export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from triplex_deploy.cli.shared import common_options, print_summary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CALIBRATION_TILES = 128
"""Tiles taken from all calibration slides together."""


@click.command(epilog="Example: triplex-deploy export model.ckpt --out bundle/")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle to create.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8 quantises the two image encoders for faster CPU runs; it needs --calibration.",
)
@click.option(
    "--calibration",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Slide to calibrate int8 on, like those to be predicted; repeatable.",
)
@click.option("--mpp", type=float, help="Microns per pixel of the calibration slides.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--allow-parity-failure",
    is_flag=True,
    help="Keep a bundle that differs from PyTorch beyond its gate, marked as such.",
)
@common_options
def command(
    checkpoint: Path,
    out: Path,
    precision: str,
    calibration: tuple[Path, ...],
    mpp: float | None,
    force: bool,
    allow_parity_failure: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle of ONNX graphs for ONNX Runtime.

    Every graph is compared with PyTorch on the way; a bundle that strays is not written.
    """
    from exporters.export import ExportOptions, export_bundle

    tiles = _calibration_tiles(checkpoint, calibration, mpp) if calibration else None
    options = ExportOptions(precision, tiles, force, allow_parity_failure)
    bundle, report = export_bundle(checkpoint, out, options)
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED"
    print_summary(
        as_json,
        {"bundle": str(out), "bundle_id": bundle.id, "parity": report.to_dict()},
        [
            f"bundle {bundle.id} written to {out} ({len(bundle.manifest.genes)} genes, "
            f"{bundle.manifest.tile_mpp:g} um/px, {precision})",
            f"parity with PyTorch {verdict}: worst graph {worst.graph}, relative error "
            f"{worst.relative:.1e}; least per-gene correlation "
            f"{report.end_to_end.min_gene_pcc:.7f}",
        ],
    )


def _calibration_tiles(
    checkpoint: Path, slides: tuple[Path, ...], mpp: float | None
) -> NDArray[np.uint8]:
    import numpy as np

    from triplex_deploy.models import read_checkpoint
    from triplex_deploy.pipeline.sample import sample_tiles

    tile_mpp = read_checkpoint(checkpoint).tile_mpp
    share = -(-CALIBRATION_TILES // len(slides))
    return np.concatenate([sample_tiles(slide, tile_mpp, share, mpp) for slide in slides])
