"""Run the workers of a pool as actors of a Ray cluster.

Every node needs this package, and every file that a job names under the same path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Generic

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
from triplex_deploy.errors import TriplexError
from triplex_deploy.progress import Progress, Silent

CPUS_PER_ACTOR: Final = 4
"""More CPU threads than this make one slide or cell little faster."""


@dataclass(frozen=True)
class ActorSize:
    """What each actor reserves on its node, and how many actors there are."""

    cpus: int
    gpus: int
    limit: int
    """Maximum number of actors at a time."""

    @classmethod
    def on(
        cls,
        nodes: Sequence[Mapping[str, float]],
        workers: int | None,
        threads: int | None = None,
        gpus_each: int = 1,
    ) -> ActorSize:
        """Return the size that fills ``nodes``, or that gives ``workers`` actors.

        Args:
            nodes: Resources of each node; ``CPU`` and ``GPU`` count.
            workers: Number of actors, None for as many as the nodes have room for.
            threads: CPU threads of each actor, None to choose.
            gpus_each: GPUs of each actor, if the nodes have GPUs; 0 for the CPU.
        """
        n_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if n_gpus and gpus_each:
            return cls(cpus=1, gpus=gpus_each, limit=workers or max(1, n_gpus // gpus_each))
        n_cpus = [int(node.get("CPU", 0)) for node in nodes]
        cpus = threads or min(CPUS_PER_ACTOR, max(n_cpus))
        if workers and not threads:
            cpus = max(1, min(cpus, sum(n_cpus) // workers))
        return cls(cpus, gpus=0, limit=workers or max(1, sum(n // cpus for n in n_cpus)))


class RayWorkers(Generic[JobT, OutcomeT]):
    """Run actors on the cluster of ``RAY_ADDRESS``, or on a cluster started on this machine.

    Args:
        program_for: Returns what each actor opens and then runs for its jobs.
        size_on: Returns the actors' size from the resources of the cluster's nodes.
        max_attempts: Maximum attempts for a job whose actor or node is lost.
        is_single_use: Start a new actor for every job, so that memory is freed between jobs.
    """

    def __init__(
        self,
        program_for: Callable[[ActorSize], WorkerProgram[JobT, OutcomeT]],
        size_on: Callable[[Sequence[Mapping[str, float]]], ActorSize],
        max_attempts: int = 4,
        is_single_use: bool = False,
    ) -> None:
        self.limit = 1
        self.max_attempts = max_attempts
        self._program_for = program_for
        self._size_on = size_on
        self._is_single_use = is_single_use
        self._is_cluster_started_here = False
        self._size = ActorSize(cpus=1, gpus=0, limit=1)
        self._actors: dict[int, Any] = {}
        self._opening: dict[Any, int] = {}
        self._running: dict[Any, int] = {}
        self._started = 0

    def connect(self) -> None:
        """Join the cluster; Ray's usage statistics are off, as slides are patients' data."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error")
            self._is_cluster_started_here = True
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._size = self._size_on(nodes)
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
            return self._finished(worker, answer)
        return Broken(answer) if isinstance(answer, TriplexError) else Ready(worker)

    def _finished(self, worker: int, outcome: OutcomeT) -> Finished[OutcomeT]:
        if self._is_single_use:
            ray.kill(self._actors.pop(worker))
        return Finished(worker, outcome, ended=self._is_single_use)

    def stop(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._opening.clear()
        self._running.clear()
        if self._is_cluster_started_here:
            ray.shutdown()


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
