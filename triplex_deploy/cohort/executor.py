"""Predict many slides in one or several workers; complete slides are skipped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import Executor, PoolExecutor, SerialExecutor
from triplex_deploy.cohort.remote import Prefetch
from triplex_deploy.cohort.resume import complete_metadata
from triplex_deploy.cohort.run_job import sweep
from triplex_deploy.cohort.shared_values import SharedValues
from triplex_deploy.cohort.slide_worker import ModelOpener, SlideProgram
from triplex_deploy.errors import BackendError, ConfigError, OutputError, TriplexError
from triplex_deploy.outputs.cohort import (
    SlideCard,
    page_names,
    summarize_prediction,
    write_index_pages,
)
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.device import ALL_GPUS, each_device
from triplex_deploy.runtime.ort_load import cuda_device_count
from triplex_deploy.system import usable_cores

if TYPE_CHECKING:
    from triplex_deploy.cohort.ray_workers import ActorSize

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Shows the progress of slides."""

    def progress(self, job: Job) -> Progress:
        """Return where the stages of this job are reported."""


def run_jobs(
    jobs: Sequence[Job], bundle: Bundle, executor_for: Callable[[int], Executor[Job, Outcome]]
) -> Iterator[Outcome]:
    """Yield one outcome per job, in any order.

    A slide that another process works on is left for last and then waited for: it counts as
    skipped if that process completes it, and is predicted if that process dies.

    Args:
        jobs: What to predict; complete slides are skipped where ``job.resume`` is set.
        bundle: The bundle of the predictions, to recognize complete ones.
        executor_for: Returns the executor for a number of slides; called only if any is left.

    Raises:
        ConfigError: If a chosen gene is not predicted.
        OutputError: If an output folder cannot be made.
        BundleError: If the bundle cannot be opened.
        BackendError: If the device or backend cannot be used.
    """
    for genes in {job.options.genes for job in jobs}:
        gene_indices(genes, bundle.manifest.genes)  # a wrong gene is told once, not for each slide
    _make_folders(jobs)
    left, shared = [], SharedValues()
    for job in jobs:
        metadata = complete_metadata(job, bundle) if job.resume else None
        if metadata is None:
            left.append(job)
        else:
            sweep(job)
            yield shared.of(Outcome(job, "skipped", 0.0, metadata))
    if left:
        sources = [job.source for job in left if job.source is not None]
        with executor_for(len(left)) as executor, Prefetch(sources) as prefetch:
            yield from map(shared.of, _run_all(left, executor, prefetch))


def _run_all(
    jobs: Sequence[Job], executor: Executor[Job, Outcome], prefetch: Prefetch
) -> Iterator[Outcome]:
    elsewhere = []
    # Several workers copy their slides themselves, each while the others predict.
    one_by_one = isinstance(executor, SerialExecutor)
    for outcome in executor.run(_announced(jobs, prefetch)) if one_by_one else executor.run(jobs):
        if outcome.status == "elsewhere":
            logger.warning("%s: %s; left for last", outcome.job.slide, outcome.error)
            elsewhere.append(replace(outcome.job, wait=True))
        else:
            yield outcome
    if elsewhere:
        yield from executor.run(elsewhere)


def _announced(jobs: Sequence[Job], prefetch: Prefetch) -> Iterator[Job]:
    """Yield the jobs, each with the next one; when one is taken, the next slide is copied."""
    for job, following in zip_longest(jobs, jobs[1:]):
        prefetch.started(job.source)
        yield replace(job, following=following)


def _make_folders(jobs: Sequence[Job]) -> None:
    for folder in {job.h5ad_path.parent for job in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be made ({error.strerror or error}); choose another --out"
            ) from error


EXECUTORS: Final = ("local", "ray")


@dataclass(frozen=True)
class ExecutorChoice:
    """Where jobs run, and in how many workers.

    Raises:
        ConfigError: If a value is not one of those below.
    """

    executor: str = "local"
    """``local`` for this machine, ``ray`` for a Ray cluster."""
    workers: int | None = None
    """Number of workers; None for one, or one for each of several GPUs, or with Ray for as many as
    the cluster has room for."""
    log_level: int = 30
    """Level from which log records of workers are shown."""

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ConfigError(
                f"executor {self.executor!r}: not known; use {' or '.join(EXECUTORS)}"
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers}: must be at least 1")

    def make(self, opener: ModelOpener, watcher: Watcher, n_jobs: int) -> Executor[Job, Outcome]:
        """Return the executor for ``n_jobs`` slides, not yet started.

        With several GPUs there is one worker for each. The CPU cores, which read the slides, are
        divided by the number of workers.

        Raises:
            BackendError: If the devices do not fit, such as a list of GPUs on a Ray cluster.
            ModuleNotFoundError: If ``executor`` is ``ray`` and Ray is not installed.
        """
        if self.executor == "ray":
            return self._on_ray(opener)
        devices = each_device(opener.device, cuda_device_count)
        workers = min(self.workers or len(devices), n_jobs)
        if workers == 1:
            return SerialExecutor(
                SlideProgram(replace(opener, device=devices[0])), watcher.progress
            )
        from triplex_deploy.cohort.process_workers import ProcessWorkers

        threads = opener.threads or threads_each(workers)
        on_each = -(-workers // len(devices))  # workers that share a GPU
        programs = [
            SlideProgram(
                replace(
                    opener.share(on_each), device=devices[place % len(devices)], threads=threads
                ),
                workers,
                self.log_level,
            )
            for place in range(workers)
        ]
        return PoolExecutor(ProcessWorkers(programs, workers, watcher.progress), _failed)

    def _on_ray(self, opener: ModelOpener) -> Executor[Job, Outcome]:
        from triplex_deploy.cohort.ray_workers import RayWorkers

        if opener.device not in ("auto", "cpu", "cuda", "cuda:0", ALL_GPUS):
            raise BackendError(
                f"device {opener.device}: Ray gives each actor its GPU; pass --device {ALL_GPUS}"
            )
        on_ray = RayWorkers(partial(_ray_program, opener, self.log_level), self._ray_size(opener))
        return PoolExecutor(on_ray, _failed)

    def _ray_size(
        self, opener: ModelOpener
    ) -> Callable[[Sequence[Mapping[str, float]]], ActorSize]:
        from triplex_deploy.cohort.ray_workers import ActorSize

        wanted = "any" if opener.device == "auto" else opener.device.partition(":")[0]
        return lambda nodes: ActorSize.on(nodes, self.workers, opener.threads, wanted)


def _ray_program(opener: ModelOpener, log_level: int, size: ActorSize) -> SlideProgram:
    """Return the program of an actor, with the actor's GPU or CPU threads.

    Ray shows an actor its own GPU alone, as the first one.
    """
    threads = opener.threads or size.readers if size.gpus else size.cpus
    device = "cuda:0" if size.gpus and opener.device != "auto" else opener.device
    return SlideProgram(replace(opener, device=device, threads=threads), log_level=log_level)


def _failed(job: Job, reason: str) -> Outcome:
    return Outcome(job, "failed", 0.0, error=f"{job.key}: {reason}")


def threads_each(workers: int) -> int:
    """Return the CPU threads of each of ``workers`` that share this process's cores."""
    return max(1, usable_cores() // workers)


def write_index(outcomes: Sequence[Outcome], out: Path) -> Path | None:
    """Write the index of ``outcomes`` into the output folder, and return its path.

    Returns None, with a warning, if the index cannot be written or would replace a slide's report:
    the predictions are complete without it.
    """
    folder = Path(os.path.abspath(out))  # noqa: PTH100 - as the jobs have it
    reports = {outcome.job.report_path for outcome in outcomes}
    taken = [name for name in page_names(len(outcomes)) if folder / name in reports]
    if taken:
        logger.warning("%s: is the report of a slide; no index is written", folder / taken[0])
        return None
    try:
        return write_index_pages(folder, [_card(outcome, folder) for outcome in outcomes]).path
    except TriplexError as error:
        logger.warning("no index is written: %s", error)
        return None


def _card(outcome: Outcome, folder: Path) -> SlideCard:
    """Return the card of a slide; its name is its path below ``folder``, for the link."""
    table = outcome.job.h5ad_path
    name = (table.parent / table.stem).relative_to(folder).as_posix()
    if outcome.metadata is None:
        return SlideCard(name, partial(SlideSummary.failed, name, outcome.error or ""))
    return SlideCard(name, partial(summarize_prediction, table, is_checked=True))
