"""Predict many slides through one executor; complete slides are skipped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import Engine, Opening, Watcher
from triplex_deploy.cohort.resume import complete_facts
from triplex_deploy.cohort.run_job import perform, sweep
from triplex_deploy.errors import ConfigError, OutputError, TriplexError
from triplex_deploy.outputs.cohort import INDEX, summarise_table, write_cohort_index
from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.runtime.model import Model
from triplex_deploy.system import usable_cores

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


ENGINES: Final = ("local", "ray")


@dataclass(frozen=True)
class EngineChoice:
    """``local`` is this process, or ``workers`` if more than one; ``ray`` is a Ray cluster.

    ``workers`` None means one, or as many as the cluster has room for. ``log_level`` says which
    log records workers send home.
    """

    kind: str = "local"
    workers: int | None = None
    log_level: int = 30

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise ConfigError(f"engine {self.kind!r}: not known; use {' or '.join(ENGINES)}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers}: must be at least 1")

    def make(self, opening: Opening, watcher: Watcher, n_jobs: int) -> Engine:
        """The engine for ``n_jobs`` slides, not yet started; cores are divided by its workers.

        Raises ``ModuleNotFoundError`` where Ray is asked for and not installed.
        """
        from triplex_deploy.cohort.pool import PoolEngine

        if self.kind == "ray":
            from triplex_deploy.cohort.ray_workers import RayActors

            return PoolEngine(RayActors(opening, self.workers, self.log_level))
        workers = min(self.workers or 1, n_jobs)
        if workers == 1:
            return SerialEngine(opening, watcher)
        from triplex_deploy.cohort.process_workers import ProcessWorkers

        share = replace(opening, threads=opening.threads or threads_each(workers))
        return PoolEngine(ProcessWorkers(share, watcher, workers, self.log_level))


def threads_each(workers: int) -> int:
    """CPU threads of each of ``workers`` that share the cores this process may use."""
    return max(1, usable_cores() // workers)


class SerialEngine:
    """Opens the bundle once, as a context manager, and does each job in turn."""

    def __init__(self, opening: Opening, watcher: Watcher) -> None:
        self._opening = opening
        self._watcher = watcher
        self._model: Model | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        assert self._model is not None, "SerialEngine used outside its context"
        for job in jobs:
            yield perform(job, self._model, self._watcher.progress(job))

    def __enter__(self) -> Self:
        self._model = self._opening.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._model.close()


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
