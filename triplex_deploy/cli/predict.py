"""``triplex-deploy predict``: slides and a bundle in, one h5ad per slide out."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from triplex_deploy.cli.renamed_option import RenamedOption
from triplex_deploy.cli.shared import common_options
from triplex_deploy.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from triplex_deploy.cli.slides_progress import OneSlide, SlidesProgress
    from triplex_deploy.cohort.job import Job, Outcome

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
    " -- many: triplex-deploy predict slides.csv --bundle bundle/ --out predictions/ --workers 4"
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
    type=click.Choice(["auto", "onnxruntime", "tensorrt"]),
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
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each process.")
@click.option(
    "--region-mm",
    type=float,
    help="Run the global encoder within squares of this side, not on the whole slide.",
)
@click.option("--half-features", is_flag=True, help="Keep tile features as fp16: half the memory.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps tile features for later runs and other models.",
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML report.")
@click.option("--recursive", is_flag=True, help="Look for slides below the folders, too.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Skip slides whose results are complete, and go on with those cut off.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that share the slides (default: 1; with ray, one per GPU or 4 CPUs).",
)
@click.option(
    "--engine",
    "--executor",
    "executor",
    cls=RenamedOption,
    envvar=["TRIPLEX_DEPLOY_PREDICT_EXECUTOR", "TRIPLEX_DEPLOY_PREDICT_ENGINE"],
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers run: on this machine, or on a Ray cluster.",
)
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
    region_mm: float | None,
    half_features: bool,
    cache: Path | None,
    no_report: bool,
    recursive: bool,
    resume: bool,
    workers: int | None,
    executor: str,
    as_json: bool,
) -> int:
    """Predict gene expression at every spot of SLIDES.

    SLIDES are files, folders, quoted patterns, or slide lists: a .csv or .tsv with the column slide
    and, as needed, spots, mpp and output. Writes SLIDE.h5ad (scanpy, squidpy), SLIDE.json
    (metadata) and SLIDE.html (report) into the output folder, and for several index.html.
    """
    from triplex_deploy.cli.slides_progress import watch
    from triplex_deploy.cli.slides_summary import print_slides
    from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs, write_index
    from triplex_deploy.cohort.inputs import find_slides
    from triplex_deploy.cohort.job import plan_jobs
    from triplex_deploy.cohort.slide_worker import ModelOpener
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
        region_mm=region_mm,
        half_features=half_features,
        cache=cache,
        threads=threads,
    )
    choice = ExecutorChoice(executor, workers, logger.getEffectiveLevel())
    jobs = plan_jobs(find_slides(slides, recursive), options, out, not no_report, resume)
    loaded = load_bundle(bundle)
    _create_folder(out)
    opening = ModelOpener(bundle.absolute(), device, backend, threads)
    with watch(len(jobs)) as watcher:
        executor_for = partial(choice.make, opening, watcher)
        outcomes = _collect(run_jobs(jobs, loaded, executor_for), watcher, jobs)
    wants_index = len(jobs) > 1 and not no_report
    print_slides(outcomes, as_json, write_index(outcomes, out) if wants_index else None)
    return _status(outcomes)


def _collect(
    under_way: Iterator[Outcome], watcher: OneSlide | SlidesProgress, jobs: Sequence[Job]
) -> list[Outcome]:
    """All outcomes in the order of ``jobs``; what went wrong is told at once."""
    outcome_of = {}
    for outcome in under_way:
        for level, text in outcome.messages:
            logger.log(level, "%s", text)
        if outcome.error is not None:
            logger.error("%s", outcome.error)
            logger.debug("%s", outcome.traceback)
        watcher.finished(outcome)
        outcome_of[outcome.job.h5ad_path] = outcome
    return [outcome_of[job.h5ad_path] for job in jobs]


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


def _status(outcomes: Sequence[Outcome]) -> int:
    failed = sum(outcome.metadata is None for outcome in outcomes)
    if not failed:
        return 0
    return SOME_FAILED if failed < len(outcomes) else 1
