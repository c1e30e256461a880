"""Prepare the next slide of a process while the GPU encodes this one."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from triplex_deploy.cohort.job import Job
from triplex_deploy.pipeline.encode import ENCODING
from triplex_deploy.pipeline.prepared import NextSlide
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model


class Lookahead:
    """Holds at most one slide that is prepared ahead, as a context manager.

    On a CPU nothing is prepared: the cores that would do it encode. Slides at URLs are copied when
    it is their turn.
    """

    def __init__(self, model: Model) -> None:
        """Prepare slides for ``model``."""
        self._model = model
        self._job: Job | None = None
        self._next: NextSlide | None = None

    def take(self, job: Job) -> NextSlide | None:
        """Return what was prepared for ``job``; anything else is discarded."""
        found, wanted = self._next, self._job
        self._next = self._job = None
        if found is None or wanted is None:
            return None
        if (wanted.slide, wanted.h5ad_path) == (job.slide, job.h5ad_path):
            return found
        found.close()
        return None

    def watched(self, job: Job, progress: Progress) -> Progress:
        """Return a progress that begins with the job after ``job`` when tiles are encoded."""
        following = job.following
        if following is None or following.source is not None or self._model.device == CPU:
            return progress
        return _Watched(self, following, progress)

    def begin(self, job: Job) -> None:
        """Prepare ``job``, unless a slide is being prepared already."""
        if self._next is None:
            self._next = NextSlide(job.slide, self._model.bundle, job.options)
            self._job = job

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        found, self._next = self._next, None
        if found is not None:
            found.close(kind)


class _Watched:
    """A ``Progress`` that begins with the next slide at the first tile of this one."""

    def __init__(self, lookahead: Lookahead, following: Job, progress: Progress) -> None:
        self._lookahead, self._following, self._progress = lookahead, following, progress

    def start(self, stage: str, total: int) -> None:
        if stage == ENCODING:
            self._lookahead.begin(self._following)
        self._progress.start(stage, total)

    def advance(self, n: int) -> None:
        self._progress.advance(n)
