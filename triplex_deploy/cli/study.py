"""Define ``triplex-deploy study``: compare models over data sets, folds and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triplex_deploy.cli.shared import command_line, common_options, is_quiet, print_json
from triplex_deploy.cli.shared_options import executor_options, out_option
from triplex_deploy.cli.streams import print_line

if TYPE_CHECKING:
    from triplex_deploy.cohort.executor import ExecutorChoice
    from triplex_deploy.study.run import StudyResult
    from triplex_deploy.study.tables import Table

SOME_FAILED = 3
"""Exit status if some trainings failed."""


@click.command(epilog="Example: triplex-deploy study her2st_c --out her2st_c/ --workers 2")
@click.argument("config")
@out_option("Folder of the study.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that relative paths in CONFIG start from.  [default: the folder of CONFIG; of an "
    "included study, the working folder]",
)
@executor_options(
    "trainings", "Trainings at a time, a process each (default: 1; with ray, all that fit)."
)
@click.option(
    "--no-train", is_flag=True, help="Train nothing: make tables of the trainings that are done."
)
@click.option(
    "--no-deploy", is_flag=True, help="Export nothing: the results have no sizes, speeds and maps."
)
@common_options
def command(
    config: str,
    out: Path,
    data: Path | None,
    executor: ExecutorChoice,
    no_train: bool,
    no_deploy: bool,
    as_json: bool,
) -> int:
    """Train every model of CONFIG on its data sets, folds and seeds, and write tables.

    CONFIG is a file, or the name of a study that is included: table1 to table5, her2st_c,
    her2st_neighborhood or demo. If the command is interrupted, run it again to continue; several
    processes share the work. NAME is the name of the study: results are NAME.json, NAME.md, CSV
    tables in tables/ and PNG figures in figures/. Studies with common trainings can use the same
    --out.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.study.config import read_study
    from triplex_deploy.study.run import StudyOptions, run_study

    study = read_study(config, data)
    line = command_line(click.get_current_context())
    options = StudyOptions(executor, not no_train, not no_deploy, line)
    with StageBars() as progress:
        result = run_study(study, out, options, progress)
    _print(result, out, as_json)
    return SOME_FAILED if result.failed else 0


def _print(result: StudyResult, out: Path, as_json: bool) -> None:
    from triplex_deploy.study.config import slug

    if as_json:
        print_json(result.results)
        return
    if is_quiet():
        return
    for table in result.tables:
        _print_table(table)
    cells: dict[str, Any] = result.results["cells"]
    name = slug(result.results["name"])
    print_line(f"{out / name}.md: {cells['done']} of {cells['all']} cells done")
    for failure in result.results["failed"]:
        print_line(f"failed: {failure['cell']}: {failure['error']}")


def _print_table(table: Table) -> None:
    """Print a table, drawn in a terminal, otherwise with tabs."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Drawn

    console = Console()
    if not console.is_terminal:
        click.echo("\n".join([table.title, *map("\t".join, (table.header, *table.rows)), ""]))
        return
    drawn = Drawn(box=box.SIMPLE_HEAD, title=escape(table.title), caption=escape(table.note))
    for index, name in enumerate(table.header):
        drawn.add_column(escape(name), justify="right" if index else "left")
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console.print(drawn)
