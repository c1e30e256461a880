"""The page that shows all slides of a run, once they are done."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from triplex_deploy.errors import TriplexError
from triplex_deploy.outputs.cohort import INDEX, summarise_table, write_cohort_index
from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.pipeline.many.job import Outcome

logger = logging.getLogger(__name__)


def write_index(outcomes: Sequence[Outcome], out: Path) -> Path | None:
    """Write the index of ``outcomes`` into the output folder; returns its path.

    None, with a warning, where a file that must stay has its name: the predictions are complete
    without it.
    """
    folder = Path(os.path.abspath(out))  # noqa: PTH100 - as the jobs have it
    path = folder / INDEX
    if any(outcome.job.page == path for outcome in outcomes):
        logger.warning("%s: is the report of a slide; the index is left out", path)
        return None
    try:
        return write_cohort_index(folder, [_summary(outcome, folder) for outcome in outcomes])
    except TriplexError as error:
        logger.warning("the index is left out: %s", error)
        return None


def _summary(outcome: Outcome, folder: Path) -> SlideSummary:
    """A slide under its name below ``folder``, where its report is linked from."""
    table = outcome.job.table
    name = (table.parent / table.stem).relative_to(folder).as_posix()
    if outcome.facts is None:
        return SlideSummary.failed(name, outcome.error or "")
    return replace(outcome.summary or summarise_table(table), slide_name=name)
