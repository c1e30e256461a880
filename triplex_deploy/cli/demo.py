"""``triplex-deploy demo``: every step once, on synthetic input."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from triplex_deploy.cli.shared import common_options, print_summary, screen_level, set_verbosity


@click.command(epilog="Example: triplex-deploy demo --out demo-out")
@click.option(
    "--out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for everything the demo makes.",
)
@click.option("--quick", is_flag=True, help="A quarter of the slide.")
@common_options
def command(out: Path, quick: bool, as_json: bool) -> None:
    """Make a checkpoint, export it, synthesise a slide and predict it, all on the CPU.

    The weights are random: the demo shows that everything works, its numbers mean nothing.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.demo.checkpoint import UNTRAINED
    from triplex_deploy.demo.run import FULL, QUICK, run_demo

    if screen_level() == logging.WARNING:
        set_verbosity(1)  # the steps are the point of a demo
    with StageBars() as progress:
        prediction = run_demo(out, QUICK if quick else FULL, progress)
    folder = out / "prediction"
    print_summary(
        as_json,
        {"out": str(out), "untrained": True, **prediction.run},
        [
            UNTRAINED,
            f"bundle      {out / 'bundle'}",
            f"slide       {out / 'slide.tif'}",
            f"prediction  {folder / 'slide.h5ad'} ({prediction.n_spots} spots, "
            f"{len(prediction.genes)} genes, {prediction.run['spots_per_s']} spots/s)",
            f"report      {folder / 'slide.html'} (open it in a browser)",
            f"next        triplex-deploy predict SLIDE --bundle {out / 'bundle'} --out predictions",
        ],
    )
