"""Define ``triplex-deploy encoder``: pathology encoders from timm as ONNX files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from triplex_deploy.cli.settings import setting, settings
from triplex_deploy.cli.shared import common_options, is_quiet, print_summary
from triplex_deploy.cli.streams import note_line
from triplex_deploy.errors import ConfigError

if TYPE_CHECKING:
    from triplex_deploy.exporters.encoder_export import EncoderFile, ExportSettings, OpenEncoder
    from triplex_deploy.exporters.encoder_presets import EncoderDesign

POOLED: Final = {
    "own": "as the network pools",
    "cls": "class token",
    "mean": "mean of the patches",
    "cls+mean": "class token and mean of the patches",
    "attention": "attention pool",
}
"""How an encoder makes features of a tile, in words."""


@click.group(
    epilog="Example: triplex-deploy encoder list",
    context_settings={"help_option_names": ["--help", "-h"]},
)
def command() -> None:
    """Write a pathology encoder as an ONNX file for `prepare --tile-encoder`.

    The network comes from timm, and its weights from a file that you have: nothing is downloaded,
    and no weights come with this package. `encoder list` shows which encoders are known by name.
    """


@command.command(
    name="export",
    epilog="Example: triplex-deploy encoder export --preset uni --weights pytorch_model.bin "
    "--out uni.onnx",
)
@click.option("--preset", help="Encoder that is known by name, see `encoder list`.")
@click.option("--timm", "network", metavar="NAME", help="Any other network of timm.")
@click.option(
    "--weights",
    required=True,
    type=click.Path(path_type=Path),
    help="Local file of the weights: .bin, .pth or .safetensors.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option(
    "--timm-arg",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of timm.create_model, such as init_values=1e-5; repeatable; with --timm.",
)
@click.option(
    "--pool",
    type=click.Choice(["own", "cls", "mean", "cls+mean"]),
    help="How tokens become one vector, with --timm.  [default: own, as timm does it]",
)
@click.option(
    "--mean",
    type=(float, float, float),
    help="R G B mean to subtract, with --timm.  [default: timm's]",
)
@click.option(
    "--std",
    type=(float, float, float),
    help="R G B standard deviation to divide by, with --timm.  [default: timm's]",
)
@click.option(
    "--input-px",
    type=click.IntRange(1),
    help="Side of the image that the network takes, with --timm.  [default: timm's]",
)
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    help="Microns per pixel that suit the encoder; `prepare` warns at another scale; with --timm.",
)
@click.option("--name", help="Name in reports, with --timm.  [default: that of the network]")
@settings(
    "how",
    "triplex_deploy.exporters.encoder_export:ExportSettings",
    setting(
        "--precision",
        type=click.Choice(["fp32", "fp16"]),
        show_default=True,
        help="Number format of the graph; fp16 is for GPUs.",
    ),
    setting(
        "--weight-bits",
        type=click.Choice([32, 16, 8]),
        help="Bits in which the file holds weights; it computes in --precision.  [default: 32; "
        "16 for fp16]",
    ),
    setting("--force", is_flag=True, help="Replace an existing file."),
)
@common_options
def export(
    preset: str | None,
    network: str | None,
    weights: Path,
    out: Path,
    how: ExportSettings,
    as_json: bool,
    **given: Any,
) -> None:
    """Write an encoder, after its features agree with timm's.

    The file takes RGB bytes and normalizes them itself. Cost and speed are shown before the work
    begins.
    """
    from triplex_deploy.exporters.encoder_export import (
        open_encoder,
        require_fitting,
        require_writable,
        write_encoder,
    )

    design = _design(preset, network, given)
    require_writable(out, how.force)
    opened = open_encoder(design, weights)
    if not is_quiet() and not as_json:
        for line in _cost_lines(opened):
            note_line(line)
    require_fitting(opened, how)
    written = write_encoder(opened, out, how)
    print_summary(as_json, _summary(opened, written), _lines(opened, written))


@command.command(name="list", epilog="Example: triplex-deploy encoder list --json")
@common_options
def list_presets(as_json: bool) -> None:
    """Show the encoders that are known by name, with their terms.

    After the terms stands where the weights are handed out. --json adds where each fact is written.
    """
    from dataclasses import asdict

    from triplex_deploy.exporters.encoder_presets import PRESETS

    lines = []
    for preset in PRESETS.values():
        size = f"{preset.millions:g} M weights" if preset.millions else f"timm's {preset.network}"
        lines.append(
            f"{preset.name:14} {preset.feature_dim:5} features ({POOLED[preset.pooling]}), {size}, "
            f"tiles of {preset.input_px} px at {preset.mpp:.2g} microns per pixel"
        )
        lines.append(f"{'':14} {preset.license}; {preset.home}")
    summary = {"presets": [asdict(preset) for preset in PRESETS.values()]}
    print_summary(as_json, summary, lines)


def _design(preset: str | None, network: str | None, given: Mapping[str, Any]) -> EncoderDesign:
    """Return the design that the options name."""
    if (preset is None) == (network is None):
        raise click.UsageError("give one of --preset and --timm")
    if preset is not None:
        from triplex_deploy.exporters.encoder_presets import preset_of

        extra = [f"--{key.replace('_', '-')}" for key, value in given.items() if value]
        if extra:
            raise click.UsageError(
                f"{', '.join(extra)}: a preset says this itself; leave it out or use --timm"
            )
        return preset_of(preset)
    from triplex_deploy.exporters.encoder_model import design_of_network

    fields = {
        "arguments": dict(map(_argument, given["arguments"])),
        "pooling": given["pool"],
        **{key: given[key] for key in ("mean", "std", "input_px", "mpp", "name")},
    }
    return design_of_network(str(network), **{k: v for k, v in fields.items() if v})


def _argument(text: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``; what is not JSON is text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"timm argument {text!r}: write KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _cost_lines(opened: OpenEncoder) -> list[str]:
    cost, design = opened.cost, opened.design
    lines = [
        f"{design.name}: {cost.parameters / 1e6:.1f} M weights, {opened.feature_dim} features, "
        f"{cost.gflop:.1f} GFLOP per tile, {cost.tiles_per_s:.2g} tiles/s here in PyTorch"
    ]
    if design.license:
        lines.append(f"terms of the weights: {design.license} ({design.home})")
    return lines


def _summary(opened: OpenEncoder, written: EncoderFile) -> dict[str, Any]:
    return {
        "encoder": str(written.path),
        "bytes": written.path.stat().st_size,
        "cost": vars(opened.cost),
        "tiles_per_s": written.tiles_per_s,
        "parity": [result.to_dict() for result in written.parity],
        **written.description,
    }


def _lines(opened: OpenEncoder, written: EncoderFile) -> list[str]:
    worst = max(written.parity, key=lambda result: result.relative)
    return [
        f"{written.path}: {opened.design.name}, {opened.feature_dim} features, "
        f"{written.path.stat().st_size / 1e6:.0f} MB; differs from timm by {worst.relative:.1e} of "
        f"the features' range; {written.tiles_per_s:.2g} tiles/s here in ONNX Runtime",
        f"next: triplex-deploy prepare DATASET --format FORMAT --tile-encoder {written.path} "
        "--out prepared/",
    ]
