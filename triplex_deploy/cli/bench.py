"""``triplex-deploy bench``: how fast bundles are here; ``bench compare``: what became slower."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.shared import (
    command_line,
    common_options,
    is_quiet,
    missing_module,
    print_summary,
    verbosity_options,
)
from triplex_deploy.errors import OutputError

if TYPE_CHECKING:
    from triplex_deploy.bench.options import BenchOptions, CountCost
    from triplex_deploy.bench.result import BenchResult

logger = logging.getLogger(__name__)

STDOUT = "-"
SYNTHETIC_PX = (2240, 1792)
"""Of the slide that is made up where none is given."""
SYNTHETIC_SEED = 0


class Sizes(click.ParamType[tuple[int, ...]]):
    """Positive integers separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(click.IntRange(1).convert(part, param, ctx) for part in value.split(","))


class BenchCommand(click.Command):
    """``bench BUNDLE...``, or ``bench compare A B`` where the first word is ``compare``."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args[:1] == [compare.name]:
            return compare.make_context(f"{info_name} {compare.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(epilog="Example: triplex-deploy bench compare before.json after.json")
@click.argument("before", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--threshold",
    type=click.FloatRange(0, min_open=True),
    default=0.1,
    show_default=True,
    help="Part by which a case may become slower.",
)
@common_options
def compare(before: Path, after: Path, threshold: float, as_json: bool) -> int:
    """Compare two results of bench --json; exits 1 if AFTER is slower beyond the threshold.

    Cases are matched by bundle, graph, scenario and size. A change that the spread of the rounds or
    the speed of the machine itself could explain is called noise.
    """
    from triplex_deploy.bench.compare import compare_results
    from triplex_deploy.bench.result import read_result
    from triplex_deploy.cli.bench_table import print_comparison

    comparison = compare_results(read_result(before), read_result(after), threshold)
    for warning in comparison.warnings:
        logger.warning("%s", warning)
    if as_json:
        print_summary(as_json, comparison.to_dict(), [])
    elif not is_quiet():
        print_comparison(comparison)
    if not comparison.slower:
        return 0
    worst = max(comparison.slower, key=lambda case: case.ratio)
    logger.error(
        "%s: %d of %d cases became slower by more than %.0f %%, most %s (%+.0f %%); "
        "measure both again on a quiet machine before looking for the cause",
        *(after, len(comparison.slower), len(comparison.cases), 100 * threshold),
        *(worst.key, 100 * (worst.ratio - 1)),
    )
    return 1


@click.command(
    cls=BenchCommand,
    epilog="Example: triplex-deploy bench bundle/ --json today.json --plot today.png. "
    "Then: triplex-deploy bench compare yesterday.json today.json",
)
@click.argument(
    "bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--slide",
    type=click.Path(path_type=Path),
    help="Slide to predict end to end; without it, a small synthetic one.",
)
@click.option("--spots", type=click.Path(path_type=Path), help="Spots file of the slide.")
@click.option("--mpp", type=float, help="Microns per pixel of the slide, over its metadata.")
@click.option(
    "--graphs/--end-to-end",
    "graphs",
    default=None,
    help="Graphs alone, or whole slides alone; both unless given.",
)
@click.option("--graph", "only", multiple=True, help="Only this graph; repeatable.")
@click.option(
    "--batch-sizes",
    type=Sizes(),
    default="1,8,32,128",
    show_default=True,
    help="Tiles or spots per call.",
)
@click.option(
    "--token-counts",
    type=Sizes(),
    default="256,1024,4096",
    show_default=True,
    help="Spots of a slide, for the graph that relates them.",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    default=("SingleStream",),
    show_default=True,
    type=click.Choice(["SingleStream", "Offline", "Server"], case_sensitive=False),
    help="How queries come, named as in MLPerf; repeatable.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Queries per second in the Server scenario.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Time for each case, over all rounds; a case runs once per round at least.",
)
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True)
@click.option(
    "--warmup", type=click.IntRange(0), default=2, show_default=True, help="Calls not counted."
)
@click.option(
    "--max-runs",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Most queries of a case.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of made-up inputs and arrivals."
)
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda:N; never substituted."
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=("auto",),
    show_default=True,
    help="Runtime that executes the graphs; repeatable, to set them side by side.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads per operator.")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=STDOUT,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the result as JSON into this file; on stdout without one.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="PNG of plots.")
@verbosity_options
def command(
    bundles: tuple[Path, ...],
    slide: Path | None,
    spots: Path | None,
    mpp: float | None,
    graphs: bool | None,
    only: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    token_counts: tuple[int, ...],
    scenarios: tuple[str, ...],
    rate: float | None,
    seconds: float,
    rounds: int,
    warmup: int,
    max_runs: int,
    seed: int,
    device: str,
    backends: tuple[str, ...],
    threads: int | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure how fast bundles are on this machine; several BUNDLEs are set side by side.

    Graphs are timed alone at every size, slides from file to prediction. docs/benchmarks.md says
    how, and describes the JSON. `bench compare A.json B.json` compares two results.
    """
    from triplex_deploy.bench.options import BenchOptions
    from triplex_deploy.pipeline.options import PredictOptions

    if slide is None and (spots is not None or mpp is not None):
        raise click.UsageError("--spots and --mpp belong to a slide: give --slide")
    if slide is not None and (graphs or only):
        raise click.UsageError("--slide is for end to end: leave out --graphs and --graph")
    _require_folders(json_file, plot)
    if plot is not None:
        import_module("triplex_deploy.bench.plots")  # said before measuring, not after
    count_cost, cost_absent = _cost_counter()
    options = BenchOptions(
        bundles=bundles,
        backends=backends,
        device=device,
        threads=threads,
        scenarios=scenarios,
        rate_per_s=rate,
        graphs=graphs is not False,
        only_graphs=only,
        batch_sizes=batch_sizes,
        token_counts=token_counts,
        slide=slide,
        slide_options=PredictOptions(spots=spots, mpp=mpp, threads=threads),
        seconds=seconds,
        rounds=rounds,
        warmup_runs=warmup,
        max_runs=max_runs,
        seed=seed,
        command=command_line(click.get_current_context()),
        count_cost=count_cost,
        cost_absent=cost_absent,
        end_to_end=not graphs and not only,
    )
    _show(_measure(options), json_file, plot)


def _measure(options: BenchOptions) -> BenchResult:
    from triplex_deploy.bench.run import run_bench
    from triplex_deploy.cli.progress import StageBars

    with ExitStack() as stack:
        if options.end_to_end and options.slide is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = replace(options, slide=_synthesise(folder, options.bundles[0]))
        progress = stack.enter_context(StageBars())
        return run_bench(options, progress)


def _synthesise(folder: Path, bundle: Path) -> Path:
    """A small section at the bundle's scale."""
    from triplex_deploy.bundle import read_bundle
    from triplex_deploy.demo.slide import synthesise_slide

    path = folder / "synthetic.tif"
    synthesise_slide(path, *SYNTHETIC_PX, read_bundle(bundle).manifest.tile_mpp, SYNTHETIC_SEED)
    return path


def _show(result: BenchResult, json_file: Path | None, plot: Path | None) -> None:
    from triplex_deploy.bench.result import write_result
    from triplex_deploy.cli.bench_table import print_result

    on_stdout = json_file is not None and str(json_file) == STDOUT
    if json_file is not None and not on_stdout:
        write_result(result, json_file)
    if plot is not None:
        from triplex_deploy.bench.plots import write_plots

        write_plots(result, plot)
    if on_stdout:
        click.echo(result.to_json(), nl=False)
    elif not is_quiet():
        print_result(result)


def _cost_counter() -> tuple[CountCost | None, str]:
    """What counts a graph's operations, or None and why there is no roofline."""
    try:
        from triplex_deploy.exporters.cost import graph_cost
    except ModuleNotFoundError as error:
        reason = missing_module(error)
        logger.warning("operations are not counted: %s", reason)
        return None, reason
    return graph_cost, ""


def _require_folders(*files: Path | None) -> None:
    """Fail before measuring rather than after it when results could not be written."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise OutputError(f"{file}: {file.parent} is not a folder; create it first")
