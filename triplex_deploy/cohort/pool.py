"""Share jobs among workers; a slide whose worker crashed is tried again."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.errors import TriplexError
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.model import Model, load_bundle

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """How each process opens the bundle; ``threads`` are CPU threads of one process."""

    bundle: Path
    device: str = "auto"
    backend: str = "auto"
    threads: int | None = None

    def open(self) -> Model:
        """Read, verify and load the bundle; raises ``BundleError`` or ``BackendError``."""
        return load_bundle(self.bundle).open(self.device, self.backend, self.threads)


class Watcher(Protocol):
    """Is told how the slides under way get on."""

    def progress(self, job: Job) -> Progress:
        """Who hears of this job's stages."""


class Engine(Protocol):
    """Use it as a context manager; ``run`` may be called again within."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do all jobs and yield one outcome each, in any order.

        Raises ``BundleError`` or ``BackendError`` if the model cannot be opened.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop at once whatever is under way, and leave no partial output."""


@dataclass(frozen=True)
class Ready:
    """A worker has opened the bundle."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has done its job and waits for the next."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker is gone, and with it the job it had."""

    worker: int
    why: str


@dataclass(frozen=True)
class Broken:
    """A worker could not open the bundle; no other could."""

    error: TriplexError


Event = Ready | Finished | Died | Broken


class Workers(Protocol):
    """Processes somewhere that each have the bundle open, known by their number."""

    limit: int
    """How many there may be at a time."""
    tries: int
    """How often a slide is begun whose worker dies; one that fells each would fell them all."""

    def connect(self) -> None:
        """Find out where workers can run; ``limit`` is known from here on."""

    def start(self) -> int:
        """Start one more; ``Ready`` or ``Died`` follows. Returns its number."""

    def submit(self, worker: int, job: Job) -> None:
        """Give a ready worker its next job; ``Finished`` or ``Died`` follows."""

    def next_event(self) -> Event:
        """Wait for what happens next."""

    def stop(self) -> None:
        """End all workers within two seconds, whatever they do."""


class PoolEngine:
    """Shares jobs out among ``workers``, as a context manager; see ``Engine``."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._starting: set[int] = set()
        self._idle: list[int] = []
        self._at_work: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._deaths: Counter[Path] = Counter()

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        self._queue.extend(jobs)
        self._hand_out()
        while self._queue or self._at_work:
            if not (self._at_work or self._starting or self._idle):
                yield from self._give_up()
                return
            outcome = self._after(self._workers.next_event())
            self._hand_out()
            if outcome is not None:
                yield outcome

    def _hand_out(self) -> None:
        """Busy every idle worker, and start as many as the remaining jobs can use."""
        while self._queue and self._idle:
            worker = self._idle.pop()
            self._at_work[worker] = self._queue.popleft()
            self._workers.submit(worker, self._at_work[worker])
        while len(self._starting) < min(len(self._queue), self._room()):
            self._starting.add(self._workers.start())

    def _room(self) -> int:
        return self._workers.limit - len(self._at_work) - len(self._idle)

    def _after(self, event: Event) -> Outcome | None:
        match event:
            case Ready(worker):
                self._starting.discard(worker)
                self._idle.append(worker)
            case Finished(worker, outcome):
                del self._at_work[worker]
                self._idle.append(worker)
                return outcome
            case Died(worker, why):
                return self._after_death(worker, why)
            case Broken(error):
                raise error
        return None

    def _after_death(self, worker: int, why: str) -> Outcome | None:
        if worker in self._starting:
            self._starting.discard(worker)
            self._workers.limit -= 1  # the next would die like it
            logger.error("a worker %s while it opened the bundle", why)
            return None
        if worker in self._idle:
            self._idle.remove(worker)
            return None
        job = self._at_work.pop(worker)
        self._deaths[job.table] += 1
        if self._deaths[job.table] < self._workers.tries:
            logger.warning("%s: its worker %s; trying the slide again", job.slide, why)
            self._queue.append(job)
            return None
        error = f"{job.slide}: its worker {why}; given up after {self._workers.tries} tries"
        return Outcome(job, "failed", 0.0, error=error)

    def _give_up(self) -> Iterator[Outcome]:
        while self._queue:
            job = self._queue.popleft()
            yield Outcome(job, "failed", 0.0, error=f"{job.slide}: no worker is left to do it")

    def __enter__(self) -> Self:
        self._workers.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workers.stop()
