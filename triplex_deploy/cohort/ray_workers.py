"""Run the workers of a pool on a Ray cluster, as actors or as tasks.

``RayWorkers`` keeps a prepared actor for many jobs of one size, such as a loaded model for slides.
``RayTasks`` runs each job in a task with resources of its own, such as a training. Every node needs
this package, and every file that a job names under the same path.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias

import ray

from triplex_deploy.cohort.pool import (
    Broken,
    Died,
    Event,
    Finished,
    JobT,
    OutcomeT,
    Ready,
    WorkerProgram,
)
from triplex_deploy.cohort.process_workers import open_program
from triplex_deploy.cohort.ray_probe import require_admission
from triplex_deploy.errors import BackendError, TriplexError
from triplex_deploy.progress import Progress, Silent

MAX_CPUS_EACH: Final = 4
"""More CPU threads than this hardly make one slide or one training faster."""

NodeResources: TypeAlias = Mapping[str, float]
"""Resources of one node by their names in Ray, such as ``CPU`` and ``GPU``."""


@dataclass(frozen=True)
class ActorSize:
    """What each actor reserves on its node, and how many actors there are."""

    cpus: int
    """CPU cores of each actor."""
    gpus: int
    """GPUs of each actor."""
    limit: int
    """Maximum number of actors at a time."""
    readers: int | None = None
    """CPU threads that read slides for an actor with a GPU: its part of the node's cores."""

    @classmethod
    def on(
        cls,
        nodes: Sequence[NodeResources],
        workers: int | None,
        threads: int | None = None,
        device: str = "any",
    ) -> ActorSize:
        """Return the size that fills ``nodes``, or that gives ``workers`` actors.

        Args:
            nodes: Resources of each node; ``CPU`` and ``GPU`` count.
            workers: Number of actors, None for as many as the nodes have room for.
            threads: CPU threads of each actor, None to choose.
            device: ``cuda`` for one GPU each, ``cpu`` for none, ``any`` for GPUs if there are any.

        Raises:
            BackendError: If ``device`` is ``cuda`` and the nodes have no GPU.
        """
        n_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if device == "cuda" and not n_gpus:
            raise BackendError(
                "device cuda: the Ray cluster has no GPU; start its nodes with --num-gpus, or pass "
                "--device cpu"
            )
        if n_gpus and device != "cpu":
            shares = [
                int(node.get("CPU", 1)) // int(node["GPU"])
                for node in nodes
                if node.get("GPU", 0) >= 1
            ]
            readers = threads or max(1, min(shares))
            return cls(cpus=1, gpus=1, limit=workers or n_gpus, readers=readers)
        n_cpus = [int(node.get("CPU", 0)) for node in nodes]
        cpus = threads or min(MAX_CPUS_EACH, max(n_cpus))
        if workers and not threads:
            cpus = max(1, min(cpus, sum(n_cpus) // workers))
        return cls(cpus, gpus=0, limit=workers or max(1, sum(n // cpus for n in n_cpus)))


class RayWorkers(Generic[JobT, OutcomeT]):
    """Run actors on the cluster of ``RAY_ADDRESS``, or on a cluster started on this machine.

    Args:
        program_for: Returns what each actor opens and then runs for its jobs.
        size_on: Returns the actors' size from the resources of the cluster's nodes.
        max_attempts: Maximum attempts for a job whose actor or node is lost.
    """

    def __init__(
        self,
        program_for: Callable[[ActorSize], WorkerProgram[JobT, OutcomeT]],
        size_on: Callable[[Sequence[NodeResources]], ActorSize],
        max_attempts: int = 4,
    ) -> None:
        self.limit = 1
        self.max_attempts = max_attempts
        self._program_for = program_for
        self._size_on = size_on
        self._cluster = _Cluster()
        self._size = ActorSize(cpus=1, gpus=0, limit=1)
        self._actors: dict[int, Any] = {}
        self._opening: dict[Any, int] = {}
        self._running: dict[Any, int] = {}
        self._started = 0

    def connect(self) -> None:
        self._cluster.join()
        self._size = self._size_on(self._cluster.nodes())
        self.limit = self._size.limit

    def start(self) -> int:
        size = self._size
        actor_class = ray.remote(PoolActor).options(num_cpus=size.cpus, num_gpus=size.gpus)
        actor = actor_class.remote(self._program_for(size))
        self._started += 1
        self._actors[self._started] = actor
        self._opening[actor.open.remote()] = self._started
        return self._started

    def submit(self, worker: int, job: JobT) -> None:
        self._running[self._actors[worker].run.remote(job)] = worker

    def next_event(self) -> Event[OutcomeT]:
        (reference,), _ = ray.wait([*self._opening, *self._running], num_returns=1)
        is_opening = reference in self._opening
        worker = (self._opening if is_opening else self._running).pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(self._actors.pop(worker))
            return Died(worker, f"was lost ({_first_line(error)})")
        if not is_opening:
            return Finished(worker, answer)
        return Broken(answer) if isinstance(answer, TriplexError) else Ready(worker)

    def stop(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._opening.clear()
        self._running.clear()
        self._cluster.leave()


class PoolActor:
    """A process of the cluster that has opened its program and runs jobs."""

    def __init__(self, program: WorkerProgram[Any, Any]) -> None:
        self._program = program
        self._stack = ExitStack()
        self._run_job: Callable[[Any, Progress], Any] | None = None

    def open(self) -> TriplexError | None:
        """Open the program; return the error that prevents it, if any."""
        opened = open_program(self._program, self._stack)
        if isinstance(opened, TriplexError):
            return opened
        self._run_job = opened
        return None

    def run(self, job: Any) -> Any:
        """Return the outcome of ``job``."""
        assert self._run_job is not None, "PoolActor used before it was opened"
        return self._run_job(job, Silent())


@dataclass(frozen=True)
class TaskSize:
    """What one task reserves on its node."""

    cpus: int
    """CPU cores of the task."""
    gpus: int = 0
    """GPUs of the task."""


class RayTasks(Generic[JobT, OutcomeT]):
    """Run each job in a task of its own, with resources that depend on the job.

    The cluster is that of ``RAY_ADDRESS``, or one started on this machine. A task that finds no
    free resources waits in Ray's queue.

    Args:
        program_for: Returns what a task of this size opens and then runs for its job.
        size_of: Returns what a job's task reserves, from the job and the resources of the nodes.
        limit: Maximum number of tasks at a time, counting those in Ray's queue.
        max_attempts: Maximum attempts for a job whose task or node is lost.
    """

    def __init__(
        self,
        program_for: Callable[[TaskSize], WorkerProgram[JobT, OutcomeT]],
        size_of: Callable[[JobT, Sequence[NodeResources]], TaskSize],
        limit: int,
        max_attempts: int = 5,
    ) -> None:
        self.limit = limit
        self.max_attempts = max_attempts
        self._program_for = program_for
        self._size_of = size_of
        self._cluster = _Cluster()
        self._ready: deque[int] = deque()
        self._running: dict[Any, int] = {}
        self._started = 0

    def connect(self) -> None:
        self._cluster.join()

    def start(self) -> int:
        """Return a number; the task starts with its job, as the job decides its size."""
        self._started += 1
        self._ready.append(self._started)
        return self._started

    def submit(self, worker: int, job: JobT) -> None:
        size = self._size_of(job, self._cluster.nodes())
        task = ray.remote(run_in_task).options(
            num_cpus=size.cpus, num_gpus=size.gpus, max_retries=0
        )
        self._running[task.remote(self._program_for(size), job)] = worker

    def next_event(self) -> Event[OutcomeT]:
        if self._ready:
            return Ready(self._ready.popleft())
        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        worker = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            return Died(worker, f"was lost ({_first_line(error)})")
        if isinstance(answer, TriplexError):
            return Broken(answer)
        return Finished(worker, answer, ended=True)

    def stop(self) -> None:
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._ready.clear()
        self._running.clear()
        self._cluster.leave()


def run_in_task(program: WorkerProgram[JobT, OutcomeT], job: JobT) -> OutcomeT | TriplexError:
    """Open ``program`` and return the outcome of ``job``, or the error that prevented opening."""
    with ExitStack() as stack:
        run_job = open_program(program, stack)
        return run_job if isinstance(run_job, TriplexError) else run_job(job, Silent())


class _Cluster:
    """The cluster of ``RAY_ADDRESS``, or one that is started on this machine and ended again."""

    def __init__(self) -> None:
        self._is_started_here = False

    def join(self) -> None:
        """Join the cluster; Ray's usage statistics are off, as slides are patients' data.

        Raises:
            BackendError: If the cluster wants a token, or does not answer.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # no dumps of Ray's state
        if ray.is_initialized():
            return
        require_admission()
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise BackendError(
                f"Ray cluster: cannot be joined or started ({_first_line(error)}); check "
                "RAY_ADDRESS, and the versions of Ray and Python on its nodes"
            ) from error
        self._is_started_here = True

    def nodes(self) -> list[NodeResources]:
        """Return the resources of each node that is alive."""
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def leave(self) -> None:
        """End the cluster if ``join`` has started it."""
        if self._is_started_here:
            ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
