"""Add the tiles of a slide to the report of a prediction that ``predict`` wrote."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from triplex_deploy.cli.progress import StageBars
from triplex_deploy.errors import TriplexError, one_line

if TYPE_CHECKING:
    from triplex_deploy.cohort.job import Outcome

logger = logging.getLogger(__name__)


def with_tiles(outcome: Outcome) -> Outcome:
    """Write the tiles of a predicted slide and its report with them, unless they are there.

    Returns:
        The outcome, or one that failed.
    """
    from triplex_deploy.outputs.report import write_report
    from triplex_deploy.pipeline.zoom import write_zoom, zoom_folder

    job = outcome.job
    is_there = outcome.status == "skipped" and zoom_folder(job.report_path).exists()
    if outcome.metadata is None or is_there:
        return outcome
    try:
        prediction = outcome.read()
        with StageBars() as progress:
            tiles = write_zoom(prediction, job.slide, job.report_path, progress=progress)
        write_report(prediction, job.report_path, zoom=tiles)
    except TriplexError as error:
        logger.error("%s", one_line(error))
        return replace(outcome, status="failed", metadata=None, error=one_line(error))
    return outcome
