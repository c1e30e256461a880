"""What each worker of a cohort opens and runs: a bundle's model, and one slide after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.lookahead import Lookahead
from triplex_deploy.cohort.run_job import failed_outcome, run_job
from triplex_deploy.progress import Progress, WallClock
from triplex_deploy.runtime.model import Model, load_bundle
from triplex_deploy.runtime.session import LostDeviceError

LOGGER: Final = "triplex_deploy"


@dataclass(frozen=True)
class ModelOpener:
    """How each process opens the bundle."""

    bundle: Path
    """Folder of the bundle, an absolute path."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda:N``; for several processes also ``cuda:all`` or a list."""
    backend: str = "auto"
    """``auto``, ``onnxruntime``, ``openvino`` or ``tensorrt``."""
    threads: int | None = None
    """CPU threads of each process, None for all cores."""
    precision: str | None = None
    """``fp32``, ``bf16``, ``int8`` or ``auto`` on a CPU; None is the precision of the bundle."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Seconds of what this process did before, by stage; they count for its first slide."""
    gpu_memory_gb: float | None = None
    """Most memory of a GPU that each process takes beside the weights; None sets no limit."""

    def open(self, clock: WallClock | None = None) -> Model:
        """Read, verify and load the bundle.

        Args:
            clock: Receives the seconds of both steps.

        Raises:
            BundleError: If the bundle cannot be read or was altered.
            BackendError: If the device or backend cannot be used.
        """
        clock = clock or WallClock()
        with clock.stage("check bundle"):
            bundle = load_bundle(self.bundle)
        with clock.stage("load model"):
            return bundle.open(
                self.device,
                self.backend,
                self.threads,
                precision=self.precision,
                gpu_memory_gb=self.gpu_memory_gb,
            )

    def share(self, n_processes: int) -> Self:
        """Return how each of ``n_processes`` that share a GPU opens the bundle."""
        limit = self.gpu_memory_gb
        return replace(self, gpu_memory_gb=None if limit is None else limit / n_processes)


@dataclass(frozen=True)
class SlideProgram:
    """Open the model and run jobs with it: the ``WorkerProgram`` of a cohort."""

    opener: ModelOpener
    """How the bundle is opened."""
    n_sharing: int = 1
    """Workers that share this machine: each gets an equal part of the memory."""
    log_level: int | None = None
    """Level from which log records travel in the outcome; None leaves the log as it is."""

    @contextmanager
    def open(self) -> Iterator[Callable[[Job, Progress], Outcome]]:
        clock = WallClock(self.opener.before)
        with ExitStack() as stack:
            with _collected(self.log_level) as of_opening:
                model = stack.enter_context(self.opener.open(clock))
            lookahead = stack.enter_context(Lookahead(model))
            before = clock.seconds

            def run(job: Job, progress: Progress) -> Outcome:
                outcome = self._run(job, model, progress, dict(before), lookahead)
                outcome = replace(outcome, messages=(*of_opening, *outcome.messages))
                before.clear()  # the first slide of a process counts it
                of_opening.clear()  # and tells what the log said
                return outcome

            yield run

    def _run(
        self,
        job: Job,
        model: Model,
        progress: Progress,
        before: Mapping[str, float],
        lookahead: Lookahead,
    ) -> Outcome:
        if self.log_level is None:  # no other worker could try the slide again
            try:
                return run_job(job, model, progress, before, lookahead)
            except LostDeviceError as error:
                return failed_outcome(job, error, 0.0)
        return run_job_logged(self._with_share(job), model, progress, self.log_level, before)

    def _with_share(self, job: Job) -> Job:
        """Divide the memory among all workers, and keep to the process's CPU threads."""
        options = replace(
            job.options,
            memory_gb=job.options.memory_gb / self.n_sharing,
            threads=job.options.threads or self.opener.threads,
        )
        return replace(job, options=options)


def run_job_logged(
    job: Job,
    model: Model,
    progress: Progress,
    log_level: int,
    before: Mapping[str, float] | None = None,
) -> Outcome:
    """Return the outcome of ``run_job`` with the log records of this process in it."""
    with _collected(log_level) as messages:
        outcome = run_job(job, model, progress, before)
    return replace(outcome, messages=tuple(messages))


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, record.getMessage()))


@contextmanager
def _collected(log_level: int | None) -> Iterator[list[tuple[int, str]]]:
    """Collect the package's log records from ``log_level`` on; with None leave the log as it is."""
    logger, collector = logging.getLogger(LOGGER), _Collector()
    if log_level is None:
        yield collector.messages
        return
    logger.setLevel(log_level)
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)
