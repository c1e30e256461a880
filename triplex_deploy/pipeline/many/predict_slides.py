"""Many slides through one engine: what is complete is skipped, what is elsewhere waited for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import OutputError
from triplex_deploy.pipeline.many.completeness import complete_facts
from triplex_deploy.pipeline.many.engine import Engine
from triplex_deploy.pipeline.many.job import Job, Outcome
from triplex_deploy.pipeline.many.perform import sweep

logger = logging.getLogger(__name__)


def predict_slides(
    jobs: Sequence[Job], bundle: Bundle, engine_for: Callable[[int], Engine]
) -> Iterator[Outcome]:
    """Yield one outcome per job, in any order.

    ``engine_for`` makes the engine for a number of slides, once it is known what there is to do.

    A slide whose lock another process holds is put off until all others are done, and then waited
    for: if it is complete it counts as skipped, and if that process died it is predicted. Raises
    ``OutputError`` where the output folders cannot be made, ``BundleError`` or ``BackendError``
    where the bundle cannot be opened.
    """
    _make_folders(jobs)
    left = []
    for job in jobs:
        facts = complete_facts(job, bundle) if job.resume else None
        if facts is None:
            left.append(job)
        else:
            sweep(job)
            yield Outcome(job, "skipped", 0.0, facts)
    if left:
        with engine_for(len(left)) as engine:
            yield from _run_all(left, engine)


def _run_all(jobs: Sequence[Job], engine: Engine) -> Iterator[Outcome]:
    elsewhere = []
    for outcome in engine.run(jobs):
        if outcome.status == "elsewhere":
            logger.warning("%s: %s; left for last", outcome.job.slide, outcome.error)
            elsewhere.append(replace(outcome.job, wait=True))
        else:
            yield outcome
    if elsewhere:
        yield from engine.run(elsewhere)


def _make_folders(jobs: Sequence[Job]) -> None:
    for folder in {job.table.parent for job in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be made ({error.strerror or error}); choose another --out"
            ) from error
