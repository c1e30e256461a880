"""Share jobs of any kind among workers; a job whose worker crashed is tried again.

Slides of a cohort and trainings of a study run through the same executors. A caller gives three
things: a program for the workers, the workers, and the outcome of a job whose workers died::

    class TrainProgram:                                 # a WorkerProgram: sent to each worker
        @contextmanager
        def open(self) -> Iterator[Callable[[Training, Progress], Result]]:
            yield lambda training, progress: train(training)

    def failed(training: Training, reason: str) -> Result:
        return Result(training, "failed", reason)

    workers = ProcessWorkers(TrainProgram(), limit=4)   # or RayWorkers or RayTasks, on a cluster
    with PoolExecutor(workers, failed) as executor:
        for result in executor.run(trainings):          # one per training, in any order
            ...
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

from triplex_deploy.errors import TriplexError
from triplex_deploy.progress import Progress, Silent

logger = logging.getLogger(__name__)


class PoolJob(Protocol):
    """A job that a pool can share out; it is pickled where workers are processes."""

    @property
    def key(self) -> str:
        """Name of the job in messages."""


JobT = TypeVar("JobT", bound=PoolJob)
OutcomeT = TypeVar("OutcomeT")
JobContra = TypeVar("JobContra", contravariant=True)
OutcomeCo = TypeVar("OutcomeCo", covariant=True)


class WorkerProgram(Protocol[JobContra, OutcomeCo]):
    """What every worker runs; it is pickled where workers are processes."""

    def open(self) -> AbstractContextManager[Callable[[JobContra, Progress], OutcomeCo]]:
        """Prepare a worker, such as by loading a model, and return what does a job.

        The function is called for one job after another, and must return failures as outcomes.
        A ``TriplexError`` raised by ``open`` ends the whole run.
        """


class Executor(Protocol[JobContra, OutcomeCo]):
    """Runs jobs, as a context manager; ``run`` may be called several times within it."""

    def run(self, jobs: Iterable[JobContra]) -> Iterator[OutcomeCo]:
        """Yield one outcome per job, in any order.

        Raises:
            TriplexError: If no worker can be prepared, such as for a bundle that does not open.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all work at once, and leave no partial output."""


class SerialExecutor(Generic[JobT, OutcomeT]):
    """Run jobs one after another in this process."""

    def __init__(
        self,
        program: WorkerProgram[JobT, OutcomeT],
        progress_of: Callable[[JobT], Progress] | None = None,
    ) -> None:
        self._program = program
        self._progress_of = progress_of or _silent
        self._run_job: Callable[[JobT, Progress], OutcomeT] | None = None
        self._stack = ExitStack()

    def run(self, jobs: Iterable[JobT]) -> Iterator[OutcomeT]:
        """Yield one outcome per job; a job is taken when the one before is done."""
        assert self._run_job is not None, "SerialExecutor used outside its context"
        for job in jobs:
            yield self._run_job(job, self._progress_of(job))

    def __enter__(self) -> Self:
        self._run_job = self._stack.enter_context(self._program.open())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Ready:
    """A worker has opened its program and waits for a job."""

    worker: int


@dataclass(frozen=True)
class Finished(Generic[OutcomeCo]):
    """A worker has finished its job."""

    worker: int
    outcome: OutcomeCo
    ended: bool = False
    """The worker takes no other job: it has ended."""


@dataclass(frozen=True)
class Died:
    """A worker is gone, and the job it had is lost."""

    worker: int
    why: str
    """Follows "its worker" in a message, such as "was killed"."""


@dataclass(frozen=True)
class Broken:
    """A worker could not open its program, and no other worker could."""

    error: TriplexError


Event: TypeAlias = Ready | Finished[OutcomeT] | Died | Broken


class Workers(Protocol[JobContra, OutcomeCo]):
    """Workers on this machine or on a cluster, known by their numbers."""

    limit: int
    """Maximum number of workers at a time."""
    max_attempts: int
    """Maximum attempts for a job whose worker dies, so that one job cannot end every worker."""

    def connect(self) -> None:
        """Find out where workers can run; ``limit`` is final from here on."""

    def start(self) -> int:
        """Start a worker and return its number; ``Ready``, ``Died`` or ``Broken`` follows."""

    def submit(self, worker: int, job: JobContra) -> None:
        """Give a ready worker its next job; ``Finished`` or ``Died`` follows."""

    def next_event(self) -> Event[OutcomeCo]:
        """Wait for the next event."""

    def stop(self) -> None:
        """End all workers within two seconds, whatever they do."""


class PoolExecutor(Generic[JobT, OutcomeT]):
    """Share jobs among ``workers``, as a context manager; see ``Executor``.

    Args:
        workers: Where jobs run.
        failed: Returns the outcome of a job that no worker could finish, from the job and the
            reason in a few words.
    """

    def __init__(
        self, workers: Workers[JobT, OutcomeT], failed: Callable[[JobT, str], OutcomeT]
    ) -> None:
        self._workers = workers
        self._failed = failed
        self._starting: set[int] = set()
        self._idle: list[int] = []
        self._at_work: dict[int, _Attempt[JobT]] = {}
        self._queue: deque[_Attempt[JobT]] = deque()

    def run(self, jobs: Iterable[JobT]) -> Iterator[OutcomeT]:
        self._queue.extend(_Attempt(job, 1) for job in jobs)
        self._hand_out()
        while self._queue or self._at_work:
            if not (self._at_work or self._starting or self._idle):
                yield from self._give_up()
                return
            yield from self._handle(self._workers.next_event())

    def _handle(self, event: Event[OutcomeT]) -> Iterator[OutcomeT]:
        """Update the workers' states, share out what is left, and then yield any outcome."""
        outcomes = list(self._outcomes(event))
        self._hand_out()
        yield from outcomes

    def _outcomes(self, event: Event[OutcomeT]) -> Iterator[OutcomeT]:
        match event:
            case Ready(worker):
                self._starting.discard(worker)
                self._idle.append(worker)
            case Finished(worker, outcome, ended):
                del self._at_work[worker]
                if not ended:
                    self._idle.append(worker)
                yield outcome
            case Died(worker, why):
                yield from self._after_death(worker, why)
            case Broken(error):
                raise error

    def _hand_out(self) -> None:
        """Give every idle worker a job, and start as many workers as the other jobs can use."""
        while self._queue and self._idle:
            worker = self._idle.pop()
            self._at_work[worker] = self._queue.popleft()
            self._workers.submit(worker, self._at_work[worker].job)
        while len(self._starting) < min(len(self._queue), self._room()):
            self._starting.add(self._workers.start())

    def _room(self) -> int:
        return self._workers.limit - len(self._at_work) - len(self._idle)

    def _after_death(self, worker: int, why: str) -> Iterator[OutcomeT]:
        if worker in self._starting:
            self._starting.discard(worker)
            self._workers.limit -= 1  # the next worker would probably die as well
            logger.error("a worker %s while it started", why)
        elif worker in self._idle:
            self._idle.remove(worker)
        else:
            attempt = self._at_work.pop(worker)
            yield from self._retry(attempt, why)

    def _retry(self, attempt: _Attempt[JobT], why: str) -> Iterator[OutcomeT]:
        """Queue a job again, or yield its failure after the last attempt."""
        job, number = attempt.job, attempt.number
        if number < self._workers.max_attempts:
            logger.warning("%s: its worker %s; trying again", job.key, why)
            self._queue.append(_Attempt(job, number + 1))
        else:
            attempts = "1 attempt" if number == 1 else f"{number} attempts"
            yield self._failed(job, f"its worker {why}; given up after {attempts}")

    def _give_up(self) -> Iterator[OutcomeT]:
        while self._queue:
            job = self._queue.popleft().job
            yield self._failed(job, "no worker is left to do it")

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


@dataclass(frozen=True)
class _Attempt(Generic[JobT]):
    job: JobT
    number: int
    """Counted from 1."""


def _silent(_job: object) -> Progress:
    return Silent()
