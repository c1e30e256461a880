"""Define ``triplex-deploy import-checkpoint``: convert published TRIPLEX weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import (
    config_option,
    file_option,
    mpp_option,
    out_option,
    tile_encoder_option,
)

if TYPE_CHECKING:
    from triplex_deploy.models.published.checkpoint import OfficialModel


@click.command(
    epilog="Example: triplex-deploy import-checkpoint TRIPLEX.ckpt --layout 2024 "
    "--config heads.yaml --genes genes.txt --mpp 0.69 --tile-encoder resnet18.ckpt --out model.ckpt"
)
@click.argument("official", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["2024", "2025"]),
    help="Year of the published code that wrote the file: 2024 for the paper, 2025 for the "
    "rewritten code.",
)
@config_option("YAML or JSON with at least fusion_heads and global_heads.", required=True)
@file_option("--genes", "Predicted genes in order, a gene in each line.", required=True)
@mpp_option("Microns per pixel of the training tiles.", required=True)
@tile_encoder_option("Frozen encoder of the training: histology ResNet18 weights, or an ONNX file.")
@out_option("Checkpoint to write.")
@common_options
def command(
    official: Path,
    layout: Literal["2024", "2025"],
    config: Path,
    genes: Path,
    mpp: float,
    tile_encoder: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Convert OFFICIAL, a Lightning checkpoint of the published TRIPLEX code.

    Every key must fit. Depths, widths and the kernel are taken from the weights if --config does
    not name them; the numbers of heads must be in --config.
    """
    from triplex_deploy.training.import_checkpoint import ImportOptions, import_checkpoint
    from triplex_deploy.training.options import read_settings_file

    options = ImportOptions(layout, read_settings_file(config), genes, mpp, tile_encoder)
    found = import_checkpoint(official, out, options)
    summary = {
        "checkpoint": str(out),
        "layout": layout,
        "config": found.config.to_dict(),
        "inferred": found.inferred,
    }
    print_summary(as_json, summary, _lines(out, layout, found))


def _lines(out: Path, layout: str, found: OfficialModel) -> list[str]:
    read_off = ", ".join(f"{key}={value}" for key, value in found.inferred.items())
    return [
        f"checkpoint written to {out}: {found.config.n_genes} genes, "
        f"{len(found.state_dict)} arrays of the {layout} layout",
        *([f"from the weights and the layout: {read_off}"] if read_off else []),
        "the label transform is assumed to be the published one; the file does not record it",
    ]
