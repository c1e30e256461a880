"""Workers as actors of a Ray cluster: one per GPU, or one per few CPUs. The one file that has Ray.

Every node needs this package, and the bundle, slides and output folder under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import ray

from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import Broken, Died, Event, Finished, Opening, Ready
from triplex_deploy.cohort.process_workers import open_or_explain, perform_logged
from triplex_deploy.errors import TriplexError
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.model import Model

CPUS_PER_ACTOR: Final = 4
"""More threads than this gain one slide little."""


@dataclass(frozen=True)
class ActorSize:
    """What an actor asks of the node it runs on, and how many of them to have."""

    cpus: int
    gpus: int
    limit: int

    @classmethod
    def on(
        cls, nodes: Sequence[Mapping[str, float]], opening: Opening, workers: int | None
    ) -> ActorSize:
        """The size for nodes of so many ``CPU`` and ``GPU``; ``workers`` None fills them."""
        n_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        if n_gpus and opening.device != "cpu":
            return cls(cpus=1, gpus=1, limit=workers or n_gpus)
        n_cpus = [int(node.get("CPU", 0)) for node in nodes]
        cpus = opening.threads or min(CPUS_PER_ACTOR, max(n_cpus))
        if workers and not opening.threads:
            cpus = max(1, min(cpus, sum(n_cpus) // workers))
        return cls(cpus, gpus=0, limit=workers or max(1, sum(n // cpus for n in n_cpus)))


class SlideActor:
    """Lives on some node with the bundle open."""

    def __init__(self, opening: Opening, log_level: int) -> None:
        self._opening = opening
        self._log_level = log_level
        self._model: Model | None = None

    def open(self) -> TriplexError | None:
        """Open the bundle; the error that prevents it is the answer."""
        opened = open_or_explain(self._opening)
        if isinstance(opened, TriplexError):
            return opened
        self._model = opened
        return None

    def perform(self, job: Job) -> Outcome:
        assert self._model is not None, "SlideActor used before it was opened"
        return perform_logged(job, self._model, Silent(), self._log_level)


class RayActors:
    """Actors on the cluster named by ``RAY_ADDRESS`` or found on this machine, else started here.

    A lost actor, or its node, costs its slide a try; the slide's features saved so far are on the
    shared disk, and its lock was freed with the process.
    """

    tries: int = 4

    def __init__(self, opening: Opening, workers: int | None, log_level: int) -> None:
        self.limit = workers or 1
        self._opening = opening
        self._wanted = workers
        self._log_level = log_level
        self._ours = False
        self._size = ActorSize(1, 0, self.limit)
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        self._started = 0

    def connect(self) -> None:
        """Join the cluster; slides are patients' data, so that Ray's usage statistics are off."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error")
            self._ours = True
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._size = ActorSize.on(nodes, self._opening, self._wanted)
        self.limit = self._size.limit

    def start(self) -> int:
        size = self._size
        opening = self._opening if size.gpus else replace(self._opening, threads=size.cpus)
        remote = ray.remote(SlideActor).options(num_cpus=size.cpus, num_gpus=size.gpus)
        self._started += 1
        actor = remote.remote(opening, self._log_level)
        self._actors[self._started] = actor
        self._pending[actor.open.remote()] = self._started
        return self._started

    def submit(self, worker: int, job: Job) -> None:
        options = job.options
        if not (options.threads or self._size.gpus):
            options = replace(options, threads=self._size.cpus)
        job = replace(job, options=options)
        self._pending[self._actors[worker].perform.remote(job)] = worker

    def next_event(self) -> Event:
        (reference,), _ = ray.wait(list(self._pending), num_returns=1)
        worker = self._pending.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(self._actors.pop(worker))
            return Died(worker, f"was lost ({_first_line(error)})")
        match answer:
            case Outcome():
                return Finished(worker, answer)
            case TriplexError():
                return Broken(answer)
        return Ready(worker)

    def stop(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._pending.clear()
        if self._ours:
            ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
