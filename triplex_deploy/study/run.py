"""``run_study``: every cell that is not done yet, then tables and figures of all that are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.errors import OutputError
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.study.cells import StudyCell, make_cells
from triplex_deploy.study.check import check_study
from triplex_deploy.study.config import Study
from triplex_deploy.study.deploy import Deployment, deployments, measure_deployment
from triplex_deploy.study.external import score_externally
from triplex_deploy.study.figures import draw_figures
from triplex_deploy.study.results import FinishedCells, collect_results
from triplex_deploy.study.run_cells import run_cells
from triplex_deploy.study.tables import Table, make_tables
from triplex_deploy.study.train_cell import CellOutcome
from triplex_deploy.study.write import write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run; what it finds does not depend on it.

    Without ``train`` tables are made of the cells that are done; without ``deploy`` nothing is
    exported, and no map is drawn. ``command`` is recorded with the results.
    """

    executor: ExecutorChoice = field(default_factory=ExecutorChoice)
    train: bool = True
    deploy: bool = True
    command: str | None = None


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What was found, the tables of it, and the cells that failed."""

    results: Mapping[str, Any]
    tables: Sequence[Table]
    failed: Sequence[CellOutcome]


def run_study(
    study: Study, out: Path, options: StudyOptions | None = None, progress: Progress | None = None
) -> StudyResult:
    """Do what is left of a study in ``out`` and write its results there.

    Studies that share cells may share ``out``: then those are trained once.

    A cell that fails is named in the result and does not stop the others. Raises ``ConfigError``
    or ``DatasetError`` for a study that cannot be run at all.
    """
    options, progress = options or StudyOptions(), progress or Silent()
    check_study(study)
    cells = make_cells(study, out)
    _make_folder(out)
    failed = _train(cells, options.executor, progress) if options.train else []
    done = FinishedCells.of(cells)
    deployed = list(deployments(study, out, done.cells)) if options.deploy else []
    facts = _deploy(deployed, progress)
    external = score_externally(study, out, done, progress)
    found = collect_results(study, cells, failed, facts, external)
    results = {"command": options.command, **found}
    tables = make_tables(results)
    figures = draw_figures(study, out, done, deployed)
    write_results(out, results, tables, figures)
    return StudyResult(results, tables, failed)


def _train(
    cells: Sequence[StudyCell], choice: ExecutorChoice, progress: Progress
) -> list[CellOutcome]:
    """Returns those that failed."""
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
    deployed: Sequence[Deployment], progress: Progress
) -> dict[tuple[str, str], dict[str, Any]]:
    facts = {}
    progress.start("deployments", len(deployed))
    for deployment in deployed:
        cell = deployment.cell
        facts[cell.dataset, cell.model] = measure_deployment(deployment)
        progress.advance(1)
    return facts


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error}); choose another --out") from error
