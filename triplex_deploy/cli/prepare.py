"""Define ``triplex-deploy prepare``: make features, labels and folds of a data set."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.settings import setting, settings
from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import (
    ThreadCount,
    file_option,
    out_option,
    pooling_settings,
    tile_encoder_option,
)

if TYPE_CHECKING:
    from triplex_deploy.expression import LabelTransform
    from triplex_deploy.training.prepare_options import PrepareOptions
    from triplex_deploy.training.prepared import Prepared


@click.command(
    epilog="Example: triplex-deploy prepare her2st/ --format st --tile-encoder resnet18.ckpt "
    "--out prepared/"
)
@click.argument("dataset", type=click.Path(path_type=Path))
@out_option("Folder to fill.")
@settings(
    "options",
    "triplex_deploy.training.prepare_options:PrepareOptions",
    setting(
        "--format",
        "layout",
        required=True,
        type=click.Choice(["st", "visium", "hest", "visium-hd", "xenium", "spatialdata"]),
        help="her2st's folders, Space Ranger outputs, HEST, Visium HD or Xenium outputs, or stores "
        "of SpatialData.",
    ),
    *pooling_settings("the bins of Visium HD, or the transcripts of Xenium or SpatialData,"),
    setting(
        "--genes",
        "n_genes",
        type=click.IntRange(1),
        show_default=True,
        help="Train on this number of most abundant genes.",
    ),
    file_option("--gene-list", "Train on the genes of this file, one per line.", declare=setting),
    tile_encoder_option(
        "Frozen encoder: ResNet18 or EfficientNet-Lite0 weights, an ONNX file, or "
        "efficientnet_lite0 for ImageNet's; without it, random weights.",
        declare=setting,
    ),
    setting(
        "--encoder-mean",
        type=(float, float, float),
        show_default=True,
        help="R G B mean to subtract, for an ONNX encoder of float images.",
    ),
    setting(
        "--encoder-std",
        type=(float, float, float),
        show_default=True,
        help="R G B standard deviation to divide by, for an ONNX encoder of float images.",
    ),
    setting(
        "--patients",
        "section_list",
        type=click.Path(path_type=Path),
        help="CSV of section and patient, and optionally slide and mpp.",
    ),
    setting(
        "--folds",
        show_default=True,
        help="patients (one left out), bc2 (the paper's list), kfold:K, or sections.",
    ),
    setting(
        "--mpp",
        "tile_mpp",
        type=float,
        help="Microns per pixel of the tiles.  [default: the sections' median]",
    ),
    setting(
        "--native-pixels", is_flag=True, help="Never rescale slides, as the paper's code does."
    ),
    setting(
        "--neighborhood",
        type=click.Choice(["exact", "shared"]),
        show_default=True,
        help="Neighbor tiles to the pixel, or from one grid of the slide: far fewer tiles if spots "
        "do not lie on a grid. The trained model predicts with the same.",
    ),
    setting(
        "--stride",
        type=click.IntRange(1, 224),
        help="Distance of that grid's tiles, in pixels of the tiles.  [default: 224]",
    ),
    setting("--seed", type=int, show_default=True, help="Seed of folds and random weights."),
    setting("--batch-size", type=click.IntRange(1), show_default=True, help="Most tiles per call."),
    setting(
        "--threads",
        type=ThreadCount(),
        help="CPU threads that encode.  [default: one per core]",
    ),
    setting(
        "--backend",
        type=click.Choice(["auto", "onnxruntime", "openvino", "torch"]),
        show_default=True,
        help="What runs the encoder on a CPU; auto takes the fastest that is installed.",
    ),
    setting(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        show_default=True,
        help="Precision of the features; bf16 needs OpenVINO and a CPU that multiplies it.",
    ),
)
@settings(
    "labels",
    "triplex_deploy.expression:LabelTransform",
    setting(
        "--library",
        type=click.Choice(["panel", "all", "none"]),
        show_default=True,
        help="Divide a spot's counts by their sum over the chosen genes (panel) or all genes.",
    ),
    setting(
        "--log",
        type=click.Choice(["log10", "ln", "none"]),
        show_default=True,
        help="Logarithm of 1 + count.",
    ),
    setting(
        "--smoothing",
        type=click.Choice(["3x3", "hex", "none"]),
        show_default=True,
        help="Window over which labels are averaged.",
    ),
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@common_options
def command(
    dataset: Path,
    out: Path,
    options: PrepareOptions,
    labels: LabelTransform,
    device: str,
    as_json: bool,
) -> None:
    """Read DATASET, encode every tile once with the frozen encoder, and set up folds.

    If the command is interrupted, run it again to continue.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.runtime.device import CPU, parse_device
    from triplex_deploy.training.prepare import prepare_dataset

    options = replace(options, labels=labels, device=parse_device(device) or CPU)
    with StageBars() as progress:
        prepared = prepare_dataset(dataset, out, options, progress)
    summary = _summary(out, prepared)
    print_summary(as_json, summary, _lines(summary))


def _summary(out: Path, prepared: Prepared) -> dict[str, Any]:
    sections = prepared.sections.values()
    return {
        "prepared": str(out),
        "sections": list(prepared.sections),
        "patients": sorted(set(prepared.patient_of.values())),
        "spots": sum(section.measured.n_spots for section in sections),
        "tiles": sum(len(section.features) for section in sections),
        "genes": prepared.n_genes,
        "tile_mpp": prepared.tile_mpp,
        "neighborhood": str(prepared.neighborhood),
        "tile_encoder": dict(prepared.tile_encoder),
        "label_transform": prepared.label_transform.to_dict(),
        "folds": [asdict(fold) for fold in prepared.folds],
    }


def _lines(summary: dict[str, Any]) -> list[str]:
    encoder, folds = summary["tile_encoder"], summary["folds"]
    lines = [
        f"{summary['prepared']}: {len(summary['sections'])} sections of "
        f"{len(summary['patients'])} patients, {summary['spots']} spots, {summary['tiles']} tiles, "
        f"{summary['genes']} genes",
        f"{len(folds)} folds; tile encoder {encoder['name']}, {encoder['feature_dim']} features; "
        f"neighborhood {summary['neighborhood']}",
    ]
    if any(fold["shares_patients"] for fold in folds):
        lines.append(
            "test patients are also in the training data: results do not show how well "
            "the model predicts new patients"
        )
    return lines
