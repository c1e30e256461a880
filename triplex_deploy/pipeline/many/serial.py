"""The engine of one process: this one, one slide after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from triplex_deploy.pipeline.many.engine import Opening, Watcher
from triplex_deploy.pipeline.many.job import Job, Outcome
from triplex_deploy.pipeline.many.perform import perform
from triplex_deploy.runtime.model import Model


class SerialEngine:
    """Opens the bundle once, as a context manager, and does each job in turn."""

    def __init__(self, opening: Opening, watcher: Watcher) -> None:
        self._opening = opening
        self._watcher = watcher
        self._model: Model | None = None

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        assert self._model is not None, "SerialEngine used outside its context"
        for job in jobs:
            yield perform(job, self._model, self._watcher.progress(job))

    def __enter__(self) -> Self:
        self._model = self._opening.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._model.close()
