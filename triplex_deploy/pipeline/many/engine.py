"""Who does the jobs: one protocol, whatever processes or machines stand behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from triplex_deploy.pipeline.many.job import Job, Outcome
from triplex_deploy.pipeline.progress import Progress
from triplex_deploy.runtime.model import Model, load_bundle


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
