"""``triplex-deploy prepare``: a data set becomes features, labels and folds to train on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD

if TYPE_CHECKING:
    from triplex_deploy.training.prepared import Prepared


@click.command(
    epilog="Example: triplex-deploy prepare her2st/ --format st --tile-encoder resnet18.ckpt "
    "--out prepared/"
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    required=True,
    type=click.Choice(["st", "visium", "hest"]),
    help="her2st's folders, Space Ranger outputs, or HEST.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to fill.")
@click.option(
    "--genes",
    type=click.IntRange(1),
    default=250,
    show_default=True,
    help="Train on this many most abundant genes.",
)
@click.option("--gene-list", type=click.Path(path_type=Path), help="Train on these, one a line.")
@click.option(
    "--tile-encoder",
    type=click.Path(path_type=Path),
    help="Frozen encoder: ResNet18 or EfficientNet-Lite0 weights, an ONNX file, or "
    "efficientnet_lite0 for ImageNet's; without it, random weights.",
)
@click.option(
    "--encoder-mean",
    type=(float, float, float),
    default=IMAGE_MEAN,
    show_default=True,
    help="R G B mean that an ONNX encoder of float images expects removed.",
)
@click.option(
    "--encoder-std",
    type=(float, float, float),
    default=IMAGE_STD,
    show_default=True,
    help="R G B standard deviation it expects divided by.",
)
@click.option(
    "--patients",
    type=click.Path(path_type=Path),
    help="CSV of section and patient, and optionally slide and mpp.",
)
@click.option(
    "--folds",
    default="patients",
    show_default=True,
    help="patients (one left out), bc2 (the paper's list), kfold:K, or sections.",
)
@click.option("--mpp", type=float, help="Scale of the tiles; by default the sections' median.")
@click.option("--native-pixels", is_flag=True, help="Never rescale slides, as the paper's code.")
@click.option(
    "--library",
    type=click.Choice(["panel", "all", "none"]),
    default="panel",
    show_default=True,
    help="Genes a spot's counts are divided over.",
)
@click.option(
    "--log",
    type=click.Choice(["log10", "ln", "none"]),
    default="log10",
    show_default=True,
    help="Logarithm of 1 + count.",
)
@click.option(
    "--smoothing",
    type=click.Choice(["3x3", "hex", "none"]),
    default="3x3",
    show_default=True,
    help="Window over which labels are averaged.",
)
@click.option("--seed", type=int, default=2021, show_default=True, help="Of folds and weights.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Tiles per call."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of an ONNX encoder.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@common_options
def command(
    dataset: Path,
    layout: str,
    out: Path,
    genes: int,
    gene_list: Path | None,
    tile_encoder: Path | None,
    encoder_mean: tuple[float, float, float],
    encoder_std: tuple[float, float, float],
    patients: Path | None,
    folds: str,
    mpp: float | None,
    native_pixels: bool,
    library: str,
    log: str,
    smoothing: str,
    seed: int,
    batch_size: int,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Read DATASET, encode every tile once with the frozen encoder, and set up folds.

    Interrupted, the same command goes on where it stopped.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.expression import LabelTransform
    from triplex_deploy.runtime.device import CPU, parse_device
    from triplex_deploy.training.prepare import PrepareOptions, prepare_dataset

    options = PrepareOptions(
        layout=layout,
        section_list=patients,
        n_genes=genes,
        gene_list=gene_list,
        tile_encoder=tile_encoder,
        encoder_mean=encoder_mean,
        encoder_std=encoder_std,
        folds=folds,
        tile_mpp=mpp,
        native_pixels=native_pixels,
        labels=LabelTransform(library=library, log=log, smoothing=smoothing),
        seed=seed,
        batch_size=batch_size,
        threads=threads,
        device=parse_device(device) or CPU,
    )
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
        f"{len(folds)} folds; tile encoder {encoder['name']}, {encoder['feature_dim']} features",
    ]
    if any(fold["shares_patients"] for fold in folds):
        lines.append("test patients are trained on too: results say nothing about new patients")
    return lines
