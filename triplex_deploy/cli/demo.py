"""Define ``triplex-deploy demo``: every step, from a data set to a report, on synthetic tissue."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.shared import common_options, print_summary, screen_level
from triplex_deploy.cli.streams import note_line

if TYPE_CHECKING:
    from triplex_deploy.demo.run import DemoResult

GENES_SHOWN = 3
"""Number of best and of worst genes in the summary."""


@click.command(epilog="Example: triplex-deploy demo --out demo-out")
@click.option(
    "--out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for all files of the demo.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Use three tiny sections and few epochs, to see the steps; predictions are poor.",
)
@common_options
def command(out: Path, quick: bool, as_json: bool) -> None:
    """Make a data set, prepare it, train, export, predict an unseen patient, evaluate, report.

    Everything runs on the CPU, in minutes. The tissue is synthetic and its expression follows from
    the picture, so the truth is known. The trained weights are of no use for real slides.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.demo.run import FULL, QUICK, run_demo

    with StageBars() as progress:
        result = run_demo(out, QUICK if quick else FULL, progress, _echo_stage)
    summary = {"out": str(out), "quick": quick, **result.prediction.run, "metrics": result.metrics}
    print_summary(as_json, summary, [*_scores(result, quick), *_files(out, result), *_next(out)])


def _echo_stage(text: str) -> None:
    """Print a stage of the demo; with -v the log shows it, and with -q nothing is shown."""
    if screen_level() == logging.WARNING:
        note_line(text)


def _scores(result: DemoResult, quick: bool) -> list[str]:
    metrics = result.metrics
    model, ceiling, constant = metrics["model"], metrics["noise_ceiling"], metrics["constant"]
    scored = zip(metrics["genes"], model["pcc"], ceiling["pcc"], strict=True)
    ranked = sorted(scored, key=lambda gene: -gene[1])
    best, worst = (", ".join(map(_gene, part)) for part in _ends(ranked))
    lines = [
        "",
        f"PCC  {model['pcc_m']:.3f} over the {metrics['spots']} spots of a patient that training "
        f"never saw; {ceiling['pcc_m']:.3f} if the cells were known, since counts are noisy",
        f"     {ceiling['prediction_pcc_m']:.3f} against the expression without that noise",
        f"     best {best}; worst {worst} (in brackets what the noise allows)",
        f"MSE  {model['mse']:.4f}; {constant['mse']:.4f} for the training mean everywhere; "
        f"{ceiling['mse']:.4f} if the cells were known",
    ]
    if quick:
        lines.append("--quick trains on a few dozen spots: expect much more of the full demo")
    return [*lines, metrics["note"]]


def _ends(ranked: list[Any]) -> tuple[list[Any], list[Any]]:
    return ranked[:GENES_SHOWN], ranked[-GENES_SHOWN:]


def _gene(scored: tuple[str, float, float]) -> str:
    gene, pcc, ceiling = scored
    return f"{gene} {pcc:.2f} ({ceiling:.2f})"


def _files(out: Path, result: DemoResult) -> list[str]:
    speed = f"{result.prediction.n_spots} spots, {result.prediction.run['spots_per_s']} spots/s"
    return [
        "",
        f"data set    {out / 'dataset'} (her2st's layout), prepared in {out / 'prepared'}",
        f"training    {out / 'run'} (curves.png, history.csv, metrics.json of the fold)",
        f"model       {out / 'checkpoint.ckpt'}, exported to {out / 'bundle'}",
        f"prediction  {out / 'prediction' / 'slide.h5ad'} of {out / 'slide.tif'} ({speed})",
        f"evaluation  {out / 'metrics.json'}, metrics.png and metrics-maps.png beside it",
        f"report      {out / 'prediction' / 'slide.html'} (open it in a browser)",
    ]


def _next(out: Path) -> list[str]:
    return [
        "",
        "with your own data",
        "  triplex-deploy prepare DATASET --format st --tile-encoder FILE --out prepared",
        "  triplex-deploy train prepared --out run --all-folds",
        "  triplex-deploy export run/fold-0/checkpoint.ckpt --out bundle",
        "  triplex-deploy predict SLIDE --bundle bundle --out predictions",
        "with the demo's",
        f"  triplex-deploy predict {out / 'slide.tif'} --bundle {out / 'bundle'} --out predictions",
    ]
