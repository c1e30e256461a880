"""The engine a caller asks for, and what each of its workers gets of this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.machine import usable_cores
from triplex_deploy.pipeline.many.engine import Engine, Opening, Watcher

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
        from triplex_deploy.pipeline.many.pool import PoolEngine

        if self.kind == "ray":
            from triplex_deploy.pipeline.many.ray_actors import RayActors

            return PoolEngine(RayActors(opening, self.workers, self.log_level))
        workers = min(self.workers or 1, n_jobs)
        if workers == 1:
            from triplex_deploy.pipeline.many.serial import SerialEngine

            return SerialEngine(opening, watcher)
        from triplex_deploy.pipeline.many.processes import ProcessWorkers

        share = replace(opening, threads=opening.threads or threads_each(workers))
        return PoolEngine(ProcessWorkers(share, watcher, workers, self.log_level))


def threads_each(workers: int) -> int:
    """CPU threads of each of ``workers`` that share the cores this process may use."""
    return max(1, usable_cores() // workers)
