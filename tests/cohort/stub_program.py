"""A worker program that is light to import: its outcome is the process that ran the job."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from triplex_deploy.progress import Progress


@dataclass(frozen=True)
class NamedJob:
    key: str


@dataclass(frozen=True)
class ProcessIdProgram:
    """The program of a worker that returns its process id for every job."""

    @contextmanager
    def open(self) -> Iterator[Callable[[NamedJob, Progress], int]]:
        yield lambda _job, _progress: os.getpid()
