"""Run a study: train the cells that are left, then make tables and figures of all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.study.cells import StudyCell, make_cells
from triplex_deploy.study.check import check_study
from triplex_deploy.study.config import Study, slug
from triplex_deploy.study.deploy import Deployment, find_deployments, measure_deployment
from triplex_deploy.study.external import score_externally
from triplex_deploy.study.figures import draw_figures
from triplex_deploy.study.results import FinishedCells, collect_results
from triplex_deploy.study.run_cells import run_cells
from triplex_deploy.study.tables import Table, make_tables
from triplex_deploy.study.train_cell import CellOutcome, make_folder
from triplex_deploy.study.write import require_own_results, write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run; the results of its cells do not depend on this."""

    executor: ExecutorChoice = field(default_factory=ExecutorChoice)
    """Where cells are trained, and how many at a time."""
    train: bool = True
    """Train the cells that are left; otherwise the tables are of the finished cells only."""
    deploy: bool = True
    """Export each model and measure its prediction; otherwise no maps are drawn."""
    command: str | None = None
    """Command line to record with the results."""


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Results of a study."""

    results: Mapping[str, Any]
    """Content of NAME.json."""
    tables: Sequence[Table]
    """Tables made of the results."""
    failed: Sequence[CellOutcome]
    """Cells that failed in this run."""


def run_study(
    study: Study, out: Path, options: StudyOptions | None = None, progress: Progress | None = None
) -> StudyResult:
    """Do what is left of a study, write its results, and return them.

    A cell that fails is one of the results and does not stop the others.

    Args:
        study: The study.
        out: Folder of the results. Studies that have cells in common may share it: each cell is
            trained once.
        options: How to run the study, None for the defaults.
        progress: Where the stages are reported, None for nowhere.

    Returns:
        The results, which are also written into ``out`` as JSON, Markdown, CSV and PNG.

    Raises:
        ConfigError: If the study or a setting is not valid.
        DatasetError: If a data set is not prepared, or cannot be tested on.
        OutputError: If ``out`` cannot be made.
    """
    options, progress = options or StudyOptions(), progress or Silent()
    check_study(study)
    cells = make_cells(study, out)
    make_folder(out)
    require_own_results(out, slug(study.config.name))
    failed = _train(cells, options.executor, progress) if options.train else []
    finished = FinishedCells.of(cells)
    deployments = list(find_deployments(study, out, finished.cells)) if options.deploy else []
    costs = _deploy(deployments, progress)
    external = score_externally(study, out, finished, progress)
    collected = collect_results(study, cells, failed, costs, external)
    results = {"command": options.command, **collected}
    tables = make_tables(results)
    figures = draw_figures(study, out, finished, deployments)
    write_results(out, results, tables, figures)
    return StudyResult(results, tables, failed)


def _train(
    cells: Sequence[StudyCell], choice: ExecutorChoice, progress: Progress
) -> list[CellOutcome]:
    """Train cells and return the outcomes of those that failed."""
    progress.start("cells", len(cells))
    failed = []
    for outcome in run_cells(cells, choice):
        if outcome.status == "failed":
            failed.append(outcome)
            logger.error("%s: %s", outcome.cell.key, outcome.error)
            logger.debug("%s", outcome.traceback)
        else:
            logger.info("%s: %s", outcome.cell.key, outcome.status)
        progress.advance(1)
    return failed


def _deploy(
    deployments: Sequence[Deployment], progress: Progress
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what each deployment costs, by data set and model."""
    costs = {}
    progress.start("deployments", len(deployments))
    for deployment in deployments:
        cell = deployment.cell
        costs[cell.dataset, cell.model] = measure_deployment(deployment)
        progress.advance(1)
    return costs
