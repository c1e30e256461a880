"""``triplex-deploy predict``: slides and a bundle in, one h5ad per slide out."""

from __future__ import annotations

import logging
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from triplex_deploy.cli.shared import common_options, one_line, print_summary
from triplex_deploy.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from triplex_deploy.pipeline.options import PredictOptions
    from triplex_deploy.runtime.model import Model

logger = logging.getLogger(__name__)

SOME_FAILED = 3


class BatchSize(click.ParamType[int | None]):
    """``auto`` (None) or a positive integer."""

    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value in ("auto", None):
            return None
        return click.IntRange(1).convert(value, param, ctx)


@click.command(
    epilog="Example: triplex-deploy predict slide.svs --bundle bundle/ --out predictions/"
)
@click.argument("slides", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle to run.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output folder.")
@click.option("--spots", type=click.Path(path_type=Path), help="Spots file or Space Ranger folder.")
@click.option(
    "--layout",
    type=click.Choice(["grid", "visium"]),
    help="Where to predict: contiguous tiles (grid, the default) or a Visium lattice.",
)
@click.option("--pitch-um", type=float, help="Spot distance of the grid in microns.")
@click.option(
    "--mask", type=click.Path(path_type=Path), help="Picture of the tissue, white on black."
)
@click.option("--all-tiles", is_flag=True, help="Predict the whole slide, tissue or not.")
@click.option("--mpp", type=float, help="Microns per pixel of the slide, over its metadata.")
@click.option("--genes", help="Only these genes, comma-separated.")
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda:N; never substituted."
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="Runtime that executes the graphs.",
)
@click.option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    show_default=True,
    help="Tiles per encoder call.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="Memory for pixels and tokens; tokens beyond it wait in a temporary file.",
)
@click.option(
    "--on-bad-tile",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="An unreadable part of a slide is an error, or is predicted as black and counted.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads per operator.")
@click.option("--no-report", is_flag=True, help="Leave out the HTML report.")
@common_options
def command(
    slides: tuple[Path, ...],
    bundle: Path,
    out: Path,
    spots: Path | None,
    layout: str | None,
    pitch_um: float | None,
    mask: Path | None,
    all_tiles: bool,
    mpp: float | None,
    genes: str | None,
    device: str,
    backend: str,
    batch_size: int | None,
    memory_gb: float,
    on_bad_tile: Literal["raise", "skip"],
    threads: int | None,
    no_report: bool,
    as_json: bool,
) -> int:
    """Predict gene expression at every spot of SLIDES.

    Writes SLIDE.h5ad (scanpy, squidpy), SLIDE.json (facts and timings) and SLIDE.html (report)
    into the output folder.
    """
    from triplex_deploy.pipeline.options import PredictOptions
    from triplex_deploy.runtime.model import load_bundle

    options = PredictOptions(
        spots=spots,
        layout=layout,
        pitch_um=pitch_um,
        mask=mask,
        all_tiles=all_tiles,
        mpp=mpp,
        genes=_split_genes(genes),
        batch_size=batch_size,
        memory_gb=memory_gb,
        on_bad_tile=on_bad_tile,
    )
    _require_distinct_stems(slides)
    for option, file in (("--spots", spots), ("--mask", mask)):
        if file is not None and len(slides) > 1:
            raise ConfigError(
                f"{option} {file}: belongs to one slide; predict {len(slides)} one by one"
            )
    loaded = load_bundle(bundle)
    _create_folder(out)
    for slide in slides:
        _require_own(out / f"{slide.stem}.h5ad")
    with loaded.open(device=device, backend=backend, threads=threads) as model:
        done, failed = _predict_all(slides, model, options, out, report=not no_report)
    lines = [_line(summary) for summary in done]
    print_summary(as_json, {"done": done, "failed": failed}, lines)
    if not failed:
        return 0
    return SOME_FAILED if done else 1


def _predict_all(
    slides: tuple[Path, ...], model: Model, options: PredictOptions, out: Path, report: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict each slide; with several, one that fails is reported and the rest go on."""
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for slide in slides:
        try:
            done.append(_predict_one(slide, model, options, out, report))
        except Exception as error:  # noqa: BLE001 - a bug on one slide is not the others' fault
            text = one_line(error)
            logger.error("%s", text)
            if logger.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            failed.append({"slide": str(slide), "error": text})
    return done, failed


def _predict_one(
    slide: Path, model: Model, options: PredictOptions, out: Path, report: bool
) -> dict[str, Any]:
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.outputs.files import write_outputs
    from triplex_deploy.pipeline.predict import predict_slide

    with StageBars() as progress:
        prediction = predict_slide(slide, model, options, progress)
    path = write_outputs(prediction, out, report)
    return {
        "slide": str(slide),
        "prediction": str(path),
        "report": str(path.with_name(f"{path.stem}.html")) if report else None,
        **prediction.run,
    }


def _split_genes(genes: str | None) -> tuple[str, ...] | None:
    if genes is None:
        return None
    return tuple(name.strip() for name in genes.split(",") if name.strip())


def _create_folder(out: Path) -> None:
    """Fail before the work rather than after it when results could not be written."""
    if (out / "manifest.json").exists():
        raise OutputError(f"{out}: is a bundle; choose another --out for the predictions")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".triplex-"):
            pass
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error


def _require_own(table: Path) -> None:
    """Refuse to write over a folder, or a table that is no prediction: maybe the measurement."""
    from triplex_deploy.outputs.files import is_prediction

    if table.is_dir():
        raise OutputError(f"{table}: is a folder; choose another --out")
    if table.exists() and not is_prediction(table):
        raise OutputError(f"{table}: is no prediction of ours; choose another --out to keep it")


def _require_distinct_stems(slides: tuple[Path, ...]) -> None:
    stems = [slide.stem for slide in slides]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(
                f"{stem}: two slides share this name, and so their outputs; "
                "predict them into different --out folders"
            )


def _line(summary: dict[str, Any]) -> str:
    return (
        f"{summary['prediction']}: {summary['spots']} spots, {summary['tiles_encoded']} tiles, "
        f"{summary['spots_per_s']} spots/s on {summary['device']}"
    )
