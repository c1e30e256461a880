"""Define ``triplex-deploy export``: write a bundle from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from triplex_deploy.cli.settings import setting, settings
from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import mpp_option, out_option
from triplex_deploy.contract.ensemble import MAX_MEMBERS
from triplex_deploy.contract.precision import DEFAULT, PRECISIONS, QUANTIZED, offered_by
from triplex_deploy.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from triplex_deploy.bundle import Bundle
    from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions

CALIBRATION_TILES = 128
"""Number of tiles taken from all calibration slides together."""
_TENSORRT_ONLY = [name for name in PRECISIONS if name not in offered_by("onnxruntime")]


@click.command(
    epilog="Example: triplex-deploy export model.ckpt --out bundle/; "
    "triplex-deploy export run/ --ensemble --out bundle/"
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option("Bundle to create.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["onnx", "tensorrt", "triton"]),
    default=("onnx",),
    show_default=True,
    help="What to write; repeatable. The ONNX graphs are always written. tensorrt adds graphs for "
    "TensorRT, which builds its engines on the machine that runs them. triton adds a model "
    "repository in BUNDLE/triton.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default=DEFAULT,
    show_default=True,
    help="Number format of the graphs in the formats that you name. tf32 is fp32 with rounded "
    f"factors in matrix products. {' and '.join(QUANTIZED)} quantize the image encoders and need "
    f"--calibration. Only TensorRT has {', '.join(_TENSORRT_ONLY)}.",
)
@click.option("--no-tf32", is_flag=True, hidden=True)  # fp32 engines used TF32 in earlier versions
@settings(
    "tensorrt",
    "triplex_deploy.exporters.options:TensorrtOptions",
    setting(
        "--profile",
        "profiles",
        multiple=True,
        help="Sizes that TensorRT engines are built for, as NAME=MIN:OPT:MAX; repeatable. NAME is "
        "batch, spots or a graph. Example: spots=1:5000:11000.",
    ),
    setting(
        "--version-compatible",
        is_flag=True,
        help="Build engines that any later TensorRT 11 can load. They are slower.",
    ),
    setting(
        "--hardware-compatible",
        "hardware",
        type=click.Choice(["none", "same_compute_capability", "ampere_plus"]),
        show_default=True,
        help="Build engines that these other GPUs can load. They are slower.",
    ),
    setting("--refit", is_flag=True, help="Build engines with replaceable weights."),
    setting(
        "--workspace-gb",
        type=float,
        help="Maximum scratch memory, in GiB, while an engine is built.",
    ),
)
@click.option(
    "--calibration",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Slide for the calibration of int8 or fp8, similar to those that you will predict; "
    "repeatable.",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help="Make one bundle of all the checkpoints: folds, seeds or runs of one model. It predicts "
    "their mean, and the error to expect as layer std (with --raw, how far they disagree).",
)
@click.option(
    "--members",
    type=click.IntRange(min=2, max=MAX_MEMBERS),
    help="Number of members of the ensemble: the first ones, in order; default all.",
)
@mpp_option("Microns per pixel of the calibration slides.")
@settings(
    "options",
    "triplex_deploy.exporters.options:ExportOptions",
    setting(
        "--int8-weights",
        type=click.IntRange(7, 8),
        show_default=True,
        help="Bits of the weights of int8 for ONNX Runtime and OpenVINO. 7 is less accurate, and "
        "for CPUs without VNNI.",
    ),
    setting(
        "--raw",
        is_flag=True,
        help="Export what the network predicts, without the calibration by held-out spots.",
    ),
    setting("--force", is_flag=True, help="Replace an existing bundle."),
    setting(
        "--allow-parity-failure",
        is_flag=True,
        help="Keep a bundle that differs from PyTorch by more than its gate, and mark it.",
    ),
)
@common_options
def command(
    checkpoints: tuple[Path, ...],
    out: Path,
    formats: tuple[str, ...],
    precision: str,
    no_tf32: bool,
    tensorrt: TensorrtOptions,
    calibration: tuple[Path, ...],
    ensemble: bool,
    members: int | None,
    mpp: float | None,
    options: ExportOptions,
    as_json: bool,
) -> None:
    """Write a bundle of graphs for ONNX Runtime and TensorRT from a checkpoint.

    With --ensemble, CHECKPOINTS are several files, or folders that train wrote. Every graph is
    compared with PyTorch. If one differs too much, no bundle is written.
    """
    from triplex_deploy.exporters.export import export_bundle

    engines = _engines(tensorrt, formats, precision, no_tf32)
    if members is not None and not ensemble:
        raise ConfigError("--members: counts the members of an ensemble; add --ensemble")
    files = _ensemble(checkpoints, members) if ensemble else [_only(checkpoints)]
    tiles = _calibration_tiles(files[0], calibration, mpp) if calibration else None
    options = replace(
        options,
        precision=_onnx_precision(formats, precision),
        calibration=tiles,
        tensorrt=engines,
        triton="triton" in formats,
    )
    bundle, report = export_bundle(files if ensemble else files[0], out, options)
    worst = max(report.graphs, key=lambda graph: graph.relative)
    verdict = "passed" if report.passed else "FAILED"
    print_summary(
        as_json,
        {
            "bundle": str(out),
            "bundle_id": bundle.id,
            "calibrated": bundle.manifest.calibrated,
            "parity": report.to_dict(),
        },
        [
            f"bundle {bundle.id} written to {out} ({len(bundle.manifest.genes)} genes, "
            f"{bundle.manifest.tile_mpp:g} um/px, {precision} for {', '.join(formats)})",
            _held_out(bundle, options.raw),
            f"parity with PyTorch {verdict}: worst graph {worst.graph}, relative error "
            f"{worst.relative:.1e}; lowest correlation of a gene "
            f"{report.end_to_end.min_gene_pcc:.7f}",
            *(
                f"{name}: {100 * graph.int8_share:.1f} % of the multiplications in int8; "
                f"in float: {', '.join(graph.float_layers)}"
                for name, graph in report.quantization.items()
            ),
        ],
    )


def _held_out(bundle: Bundle, raw: bool) -> str:
    """Return a line about what held-out spots say."""
    from triplex_deploy.reliability import NOT_MEASURED, RELIABILITY, read_reliability

    asked = "no (--raw)" if raw else "no, the checkpoint has no calibration"
    calibrated = "yes" if bundle.manifest.calibrated else asked
    if RELIABILITY not in bundle.manifest.files:
        return f"calibrated: {calibrated}; reliability by gene: {NOT_MEASURED}"
    measured = read_reliability(bundle.path / RELIABILITY)
    return (
        f"calibrated: {calibrated}; reliability by gene: {measured.description}, which support "
        f"{int(measured.is_supported.sum())} of {measured.n_genes} genes"
    )


def _only(checkpoints: tuple[Path, ...]) -> Path:
    """Return the only checkpoint of a bundle of one model."""
    if len(checkpoints) > 1:
        raise ConfigError(
            f"{len(checkpoints)} checkpoints given: a bundle holds one model; "
            "name one, or add --ensemble"
        )
    return checkpoints[0]


def _ensemble(given: tuple[Path, ...], members: int | None) -> list[Path]:
    """Return the checkpoints of an ensemble: the files given, and the folds of folders."""
    from triplex_deploy.training.run_files import CHECKPOINT, files_of_folds

    files: list[Path] = []
    for path in given:
        files += files_of_folds(path, CHECKPOINT) if path.is_dir() else [path]
    wanted = len(files) if members is None else members
    if len(files) < max(wanted, 2):
        raise ConfigError(
            f"--ensemble: {len(files)} checkpoints found, {max(wanted, 2)} needed; name more "
            "files, or the folder that train --all-folds wrote"
        )
    return files[:wanted]


def _engines(
    tensorrt: TensorrtOptions, formats: tuple[str, ...], precision: str, no_tf32: bool
) -> TensorrtOptions | None:
    """Return the options of the engines, or None if TensorRT is not among the formats."""
    if "tensorrt" in formats:
        if no_tf32 and PRECISIONS[precision].allows_tf32:
            raise ConfigError(f"--no-tf32: contradicts --precision {precision}; drop one of them")
        return replace(tensorrt, precision=precision)
    if no_tf32 or tensorrt != type(tensorrt)():
        raise ConfigError("these options are for TensorRT engines; add --format tensorrt")
    return None


def _onnx_precision(formats: tuple[str, ...], precision: str) -> str:
    """Return the precision of the graphs for ONNX Runtime; the default if no format needs them."""
    asked = "onnx" in formats or "triton" in formats
    if asked and precision not in offered_by("onnxruntime"):
        raise ConfigError(
            f"precision {precision}: ONNX Runtime has no operators for it; use --format tensorrt "
            "alone"
        )
    return precision if asked else DEFAULT


def _calibration_tiles(
    checkpoint: Path, slides: tuple[Path, ...], mpp: float | None
) -> NDArray[np.uint8]:
    import numpy as np

    from triplex_deploy.models import read_checkpoint
    from triplex_deploy.pipeline.sample import sample_tiles

    tile_mpp = read_checkpoint(checkpoint).tile_mpp
    share = -(-CALIBRATION_TILES // len(slides))
    return np.concatenate([sample_tiles(slide, tile_mpp, share, mpp) for slide in slides])
