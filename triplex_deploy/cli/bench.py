"""Define ``triplex-deploy bench``, which measures bundles, and ``bench compare``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.settings import setting, settings
from triplex_deploy.cli.shared import (
    command_line,
    common_options,
    is_quiet,
    missing_module,
    print_summary,
    verbosity_options,
)
from triplex_deploy.cli.shared_options import ThreadCount
from triplex_deploy.cli.streams import print_text
from triplex_deploy.errors import OutputError
from triplex_deploy.runtime.backends import BACKEND_NAMES, RUN_PRECISIONS

if TYPE_CHECKING:
    from triplex_deploy.bench.options import BenchOptions, CountCost
    from triplex_deploy.bench.result import BenchResult
    from triplex_deploy.pipeline.options import PredictOptions

logger = logging.getLogger(__name__)

STDOUT = "-"
RESULT_BYTES = 1 << 20
"""Free room that a result and a plot need at most, each."""
SYNTHETIC_PX = (2240, 1792)
"""Width and height of the synthetic slide that is predicted if no slide is given."""
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
    """Runs ``bench compare A B`` if the first argument is ``compare``."""

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
    from triplex_deploy.bench.read_result import read_result
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
        after,
        len(comparison.slower),
        len(comparison.cases),
        100 * threshold,
        worst.key,
        100 * (worst.ratio - 1),
    )
    return 1


@click.command(
    cls=BenchCommand,
    epilog="Example: triplex-deploy bench bundle/ --json today.json --plot today.png. "
    "Then: triplex-deploy bench compare yesterday.json today.json",
)
@settings(
    "slide_options",
    "triplex_deploy.pipeline.options:PredictOptions",
    setting("--spots", type=click.Path(path_type=Path), help="Spots file of the slide."),
    setting("--mpp", type=float, help="Microns per pixel of the slide, in place of its metadata."),
)
@settings(
    "options",
    "triplex_deploy.bench.options:BenchOptions",
    click.argument(
        "bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path)
    ),
    setting(
        "--slide",
        type=click.Path(path_type=Path),
        help="Slide to predict end to end; without it, a small synthetic slide.",
    ),
    setting("--graph", "only_graphs", multiple=True, help="Only this graph; repeatable."),
    setting("--batch-sizes", type=Sizes(), show_default=True, help="Tiles or spots per call."),
    setting(
        "--token-counts",
        type=Sizes(),
        show_default=True,
        help="Numbers of spots for the graphs that run on whole slides.",
    ),
    setting(
        "--scenario",
        "scenarios",
        multiple=True,
        show_default=True,
        type=click.Choice(["SingleStream", "Offline", "Server"], case_sensitive=False),
        help="How queries arrive, named as in MLPerf; repeatable.",
    ),
    setting(
        "--rate",
        "rate_per_s",
        type=click.FloatRange(0, min_open=True),
        help="Queries per second in the Server scenario.",
    ),
    setting(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        show_default=True,
        help="Time for each case over all rounds; each round has at least one query.",
    ),
    setting(
        "--rounds",
        type=click.IntRange(2),
        show_default=True,
        help="How often each case is measured; the differences show the noise.",
    ),
    setting(
        "--warmup",
        "warmup_runs",
        type=click.IntRange(0),
        show_default=True,
        help="Calls before the measurement.",
    ),
    setting(
        "--max-runs",
        type=click.IntRange(1),
        show_default=True,
        help="Maximum number of queries of a case.",
    ),
    setting(
        "--seed", type=int, show_default=True, help="Seed of synthetic inputs and arrival times."
    ),
    setting(
        "--device",
        show_default=True,
        help="auto, cpu or cuda:N. A GPU that cannot be used is an error.",
    ),
    setting(
        "--backend",
        "backends",
        multiple=True,
        show_default=True,
        type=click.Choice(BACKEND_NAMES),
        help="Runtime that executes the graphs; repeatable, to compare runtimes.",
    ),
    setting(
        "--precision",
        "precisions",
        multiple=True,
        type=click.Choice(RUN_PRECISIONS),
        help="Precision of the run on a CPU; repeatable, to compare precisions. "
        "[default: that of each bundle]",
    ),
    setting("--threads", type=ThreadCount(), help="CPU threads per operator."),
)
@click.option(
    "--graphs/--end-to-end",
    "graphs",
    default=None,
    help="Measure single graphs only, or whole slides only.  [default: both]",
)
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=STDOUT,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the result as JSON to this file, or to stdout if no file is given.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="PNG of plots.")
@verbosity_options
def command(
    options: BenchOptions,
    slide_options: PredictOptions,
    graphs: bool | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure how fast bundles are on this machine; several BUNDLEs are compared.

    Graphs are timed alone at every size, and slides from file to prediction. Several bundles,
    backends and precisions are compared with each other and with PyTorch in fp32; what this CPU
    does not have is listed with the reason. docs/benchmarks.md describes the measurements and the
    JSON. `bench compare A.json B.json` compares two results.
    """
    if options.slide is None and (slide_options.spots, slide_options.mpp) != (None, None):
        raise click.UsageError("--spots and --mpp belong to a slide: give --slide")
    if options.slide is not None and (graphs or options.only_graphs):
        raise click.UsageError("--slide is for end to end: leave out --graphs and --graph")
    _require_own(json_file, plot)
    if plot is not None:
        import_module("triplex_deploy.bench.plots")  # fails now if matplotlib is missing
    count_cost, cost_absent = _cost_counter()
    options = replace(
        options,
        slide_options=replace(slide_options, threads=options.threads),
        graphs=graphs is not False,
        end_to_end=not graphs and not options.only_graphs,
        command=command_line(click.get_current_context()),
        count_cost=count_cost,
        cost_absent=cost_absent,
    )
    _show(_measure(options), json_file, plot)


def _measure(options: BenchOptions) -> BenchResult:
    from triplex_deploy.bench.run import run_bench
    from triplex_deploy.cli.progress import StageBars

    with ExitStack() as stack:
        if options.end_to_end and options.slide is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = replace(options, slide=_synthesize(folder, options.bundles[0]))
        progress = stack.enter_context(StageBars())
        return run_bench(options, progress)


def _synthesize(folder: Path, bundle: Path) -> Path:
    """Write a small section at the bundle's scale, and return its path."""
    from triplex_deploy.bundle import read_bundle
    from triplex_deploy.demo.slide import synthesize_slide

    path = folder / "synthetic.tif"
    synthesize_slide(path, *SYNTHETIC_PX, read_bundle(bundle).manifest.tile_mpp, SYNTHETIC_SEED)
    return path


def _show(result: BenchResult, json_file: Path | None, plot: Path | None) -> None:
    from triplex_deploy.cli.bench_table import print_result

    on_stdout = json_file is not None and str(json_file) == STDOUT
    _write(result, None if on_stdout else json_file, plot)
    if on_stdout:
        print_text(result.to_json(), end="")
    elif not is_quiet():
        print_result(result)


def _write(result: BenchResult, json_file: Path | None, plot: Path | None) -> None:
    """Write the files that were asked for, all or none."""
    from triplex_deploy.bench.result import write_result
    from triplex_deploy.files.atomic import atomic_paths

    write_of: dict[Path, Callable[[BenchResult, Path], None]] = {}
    if json_file is not None:
        write_of[json_file] = write_result
    if plot is not None:
        from triplex_deploy.bench.plots import write_plots

        write_of[plot] = write_plots
    with atomic_paths(*write_of) as temporary:
        for write, path in zip(write_of.values(), temporary, strict=True):
            write(result, path)


def _cost_counter() -> tuple[CountCost | None, str]:
    """Return a function that counts operations, or None and why there is no roofline."""
    try:
        from triplex_deploy.exporters.cost import graph_cost
    except ModuleNotFoundError as error:
        reason = missing_module(error)
        logger.warning("operations are not counted: %s", reason)
        return None, reason
    return graph_cost, ""


def _require_own(json_file: Path | None, plot: Path | None) -> None:
    """Refuse, before measuring, to lose the results or files that are not of this package."""
    from triplex_deploy.bench.result import is_result
    from triplex_deploy.files.atomic import require_target
    from triplex_deploy.files.ours import is_our_png, require_ours
    from triplex_deploy.files.room import require_room

    if json_file is not None and json_file == plot:
        raise OutputError(f"{plot}: is given twice; choose another name for the plot")
    if json_file is not None and str(json_file) != STDOUT:
        require_target(json_file)
        require_ours(json_file, is_result, "a result of bench")
        require_room(json_file, RESULT_BYTES)
    if plot is not None:
        require_target(plot)
        require_ours(plot, is_our_png, "a picture")
        require_room(plot, RESULT_BYTES)
