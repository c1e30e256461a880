"""Define ``triplex-deploy predict``: predict slides with a bundle."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from triplex_deploy.cli.option_groups import GroupedCommand
from triplex_deploy.cli.settings import setting, settings
from triplex_deploy.cli.shared import common_options, is_quiet
from triplex_deploy.cli.shared_options import (
    BatchSize,
    GeneList,
    LocalPath,
    PathOrUrl,
    ThreadCount,
    executor_options,
    out_option,
    pooling_settings,
)
from triplex_deploy.cli.streams import note_line
from triplex_deploy.errors import OutputError
from triplex_deploy.runtime.backends import AUTO, BACKEND_NAMES, RUN_PRECISIONS
from triplex_deploy.system import seconds_since_start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from triplex_deploy.cli.slides_progress import SingleSlideProgress, SlidesProgress
    from triplex_deploy.cohort.executor import ExecutorChoice
    from triplex_deploy.cohort.job import Job, Outcome
    from triplex_deploy.pipeline.options import PredictOptions

logger = logging.getLogger(__name__)

SOME_FAILED = 3
"""Exit status if some slides failed and others are complete."""


GROUPS: Final = {
    "Common options": ("--bundle", "--out", "--genes", "--mpp", "--device"),
    "Where to predict": (
        "--layout",
        "--pitch-um",
        "--mask",
        "--mask-class",
        "--mask-origin",
        "--min-tissue",
        "--all-tiles",
        "--spots",
        "--pool-um",
        "--lattice",
        "--format",
        "--bin",
        "--alignment",
    ),
    "What is written": ("--no-report", "--zoom", "--save-features"),
    "Which model, and how": (
        "--precision",
        "--backend",
        "--region-mm",
        "--unfamiliar",
        "--on-bad-tile",
    ),
    "Speed and memory": (
        "--batch-size",
        "--threads",
        "--memory-gb",
        "--gpu-memory-gb",
        "--half-features",
        "--cache",
        "--shared-cache",
    ),
    "Many slides": ("--recursive", "--resume", "--workers", "--executor", "--stage-dir"),
    "Messages": ("--json", "--quiet", "--verbose", "--log-file", "--help"),
}
"""Options by title of the help."""


@click.command(
    cls=GroupedCommand,
    groups=GROUPS,
    epilog="Example: triplex-deploy predict slide.svs --bundle bundle/ --out predictions/. "
    "Many slides: triplex-deploy predict slides.csv --bundle bundle/ --out predictions/ "
    "--workers 4",
)
@click.argument("slides", nargs=-1, required=True, type=PathOrUrl())
@click.option("--bundle", required=True, type=LocalPath(), help="Bundle to run.")
@out_option("Output folder.")
@settings(
    "options",
    "triplex_deploy.pipeline.options:PredictOptions",
    setting("--spots", type=LocalPath(), help="Spots file or Space Ranger folder."),
    *pooling_settings(
        "the Visium HD bins, or the cells of Xenium or SpatialData, of the folder --spots"
    ),
    setting(
        "--format",
        "spots_format",
        type=click.Choice(["visium-hd", "xenium", "spatialdata"]),
        help="What is pooled. [default: found in the folder]",
    ),
    setting(
        "--layout",
        type=click.Choice(["grid", "visium"]),
        help="Place spots on contiguous tiles (grid, the default) or on a Visium lattice.",
    ),
    setting("--pitch-um", type=float, help="Distance of the spots of a grid in microns."),
    setting(
        "--mask",
        type=LocalPath(),
        help="Picture of the tissue, white on black, or regions from QuPath (.geojson).",
    ),
    setting(
        "--mask-class",
        help="Class of the mask that is predicted: a name such as Tumor, or a number in a picture.",
    ),
    setting(
        "--mask-origin",
        type=click.Choice(["scanned", "slide"]),
        show_default=True,
        help="Where coordinates of a .geojson begin: the scanned part, as in QuPath, or the slide.",
    ),
    setting(
        "--min-tissue",
        type=click.FloatRange(0, 1, min_open=True),
        show_default=True,
        help="Least share of a spot that must be tissue.",
    ),
    setting("--all-tiles", is_flag=True, help="Predict the whole slide, not the tissue alone."),
    setting("--mpp", type=float, help="Microns per pixel of the slide, in place of its metadata."),
    setting("--genes", type=GeneList(), help="Only these genes, comma-separated."),
    setting(
        "--batch-size",
        type=BatchSize(),
        default="auto",
        show_default=True,
        help="Tiles per encoder call.",
    ),
    setting(
        "--memory-gb",
        type=click.FloatRange(0, min_open=True),
        show_default=True,
        help="Memory for pixels, features and tokens; the rest goes to a temporary file.",
    ),
    setting(
        "--on-bad-tile",
        type=click.Choice(["raise", "skip"]),
        show_default=True,
        help="Stop at an unreadable part of a slide, or predict it as black and count it.",
    ),
    setting(
        "--unfamiliar",
        type=click.Choice(["warn", "fail", "ignore"]),
        show_default=True,
        help="What to do with a slide that is unlike the tissue that the model was trained on.",
    ),
    setting("--threads", type=ThreadCount(), help="CPU threads of each process."),
    setting(
        "--region-mm",
        type=float,
        help="Run the global encoder on squares of this side, not on the whole slide.",
    ),
    setting(
        "--save-features",
        is_flag=True,
        help="Keep the tile encoder's features of each spot in the h5ad, as obsm X_tile.",
    ),
    setting(
        "--half-features", is_flag=True, help="Keep tile features as fp16, in half the memory."
    ),
    setting(
        "--cache",
        type=LocalPath(file_okay=False),
        help="Folder that keeps tile features for later runs and other models.",
    ),
    setting(
        "--shared-cache",
        is_flag=True,
        help="Also take features that others wrote into --cache: who may write there can alter "
        "results.",
    ),
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu or cuda:N; cuda:all or a list such as cuda:0,cuda:2 for one worker on each "
    "GPU. A GPU that cannot be used is an error.",
)
@click.option(
    "--gpu-memory-gb",
    type=click.FloatRange(0, min_open=True),
    help="Most memory of each GPU for tensors, beside the weights. [default: all]",
)
@click.option(
    "--backend",
    type=click.Choice(BACKEND_NAMES),
    default=AUTO,
    show_default=True,
    help="Runtime that executes the graphs.",
)
@click.option(
    "--precision",
    type=click.Choice(RUN_PRECISIONS),
    help="Precision of the run on a CPU. bf16 runs an fp32 bundle in OpenVINO; auto is the fastest "
    "whose genes correlate with fp32 by 0.999 or more. [default: that of the bundle]",
)
@click.option(
    "--stage-dir",
    type=LocalPath(),
    help="Folder to which slides at URLs are copied while they are predicted. [default: --out]",
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML report.")
@click.option(
    "--zoom",
    is_flag=True,
    help="Write the slide's tiles beside each report, so that its map zooms to the cells.",
)
@click.option("--recursive", is_flag=True, help="Also look for slides in subfolders.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Skip slides with complete results, and continue those that were interrupted.",
)
@executor_options(
    "slides",
    "Processes that share the slides (default: 1, or one for each GPU of --device; with ray, one "
    "per GPU or 4 CPUs).",
)
@common_options
def command(
    slides: tuple[Path | str, ...],
    bundle: Path,
    out: Path,
    options: PredictOptions,
    device: str,
    gpu_memory_gb: float | None,
    backend: str,
    precision: str | None,
    stage_dir: Path | None,
    no_report: bool,
    zoom: bool,
    recursive: bool,
    resume: bool,
    executor: ExecutorChoice,
    as_json: bool,
) -> int:
    """Predict gene expression at every spot of SLIDES.

    SLIDES are files, folders, quoted patterns, URLs, or slide lists: a .csv or .tsv with the column
    slide and, as needed, spots, mpp and output. Writes SLIDE.h5ad (scanpy, squidpy), SLIDE.json
    (metadata) and SLIDE.html (report) into the output folder, and index.html for several slides.
    """
    from triplex_deploy.cli.slides_progress import watch
    from triplex_deploy.cli.slides_summary import print_slides
    from triplex_deploy.cohort.executor import run_jobs, write_index
    from triplex_deploy.cohort.inputs import find_slides
    from triplex_deploy.cohort.job import plan_jobs
    from triplex_deploy.cohort.slide_worker import ModelOpener
    from triplex_deploy.runtime.model import load_bundle

    if zoom and no_report:
        raise click.UsageError("--zoom: is for reports; drop it or --no-report")
    choice = replace(executor, log_level=logger.getEffectiveLevel())
    jobs = plan_jobs(
        find_slides(slides, recursive), options, out, not no_report, resume, precision, stage_dir
    )
    start_up_s = seconds_since_start()
    loaded = load_bundle(bundle)
    before = {"start-up": start_up_s, "check bundle": seconds_since_start() - start_up_s}
    _create_folder(out)
    opener = ModelOpener(
        bundle.absolute(), device, backend, options.threads, precision, before, gpu_memory_gb
    )
    with watch(len(jobs)) as watcher:
        executor_for = partial(choice.make, opener, watcher)
        outcomes = _collect(run_jobs(jobs, loaded, executor_for), watcher, jobs)
    if zoom:
        from triplex_deploy.cli.slide_tiles import with_tiles

        outcomes = [with_tiles(outcome) for outcome in outcomes]
    wants_index = len(jobs) > 1 and not no_report
    print_slides(outcomes, as_json, out, write_index(outcomes, out) if wants_index else None)
    if not as_json:
        _name_faster_precision(outcomes)
    return _status(outcomes)


def _collect(
    under_way: Iterator[Outcome], watcher: SingleSlideProgress | SlidesProgress, jobs: Sequence[Job]
) -> list[Outcome]:
    """Return all outcomes in the order of ``jobs``; errors are logged as they arrive."""
    outcome_of, told = {}, set()
    for outcome in under_way:
        for level, text in outcome.messages:
            if text not in told:  # every worker says the same of the bundle
                logger.log(level, "%s", text)
            if level >= logging.WARNING:
                told.add(text)
        if outcome.error is not None:
            logger.error("%s", _named(outcome))
            for line in (outcome.traceback or "").splitlines():
                logger.debug("%s", line)
        watcher.finished(outcome)
        outcome_of[outcome.job.h5ad_path] = outcome
    return [outcome_of[job.h5ad_path] for job in jobs]


def _named(outcome: Outcome) -> str:
    """Return the error of a slide, after its name if the error does not name it."""
    error, name = outcome.error or "", outcome.job.slide.name
    return error if name in error else f"{name}: {error}"


def _name_faster_precision(outcomes: Sequence[Outcome]) -> None:
    """Say once what bf16 would gain on this CPU, if the run has measured it."""
    gains = [(outcome.metadata or {}).get("bf16_gain") for outcome in outcomes]
    best = max((gain for gain in gains if gain), default=None)
    if best is not None and not is_quiet():
        note_line(f"--precision bf16 would encode {best:.1f} times as fast on this CPU")


def _create_folder(out: Path) -> None:
    """Make the output folder and check that it can be written, before the work begins."""
    from triplex_deploy.bundle import is_bundle

    if is_bundle(out):
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
