"""Show the progress of slides on stderr: a bar for each slide, otherwise a line when it is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from triplex_deploy.cli.progress import EVERY_S, StageBars
from triplex_deploy.cli.shared import counted, is_quiet
from triplex_deploy.cli.streams import note_line
from triplex_deploy.files.escape import printable

if TYPE_CHECKING:
    from triplex_deploy.cohort.job import Job, Outcome


def watch(n_slides: int) -> SingleSlideProgress | SlidesProgress:
    """Return the object that shows the progress of ``n_slides`` slides."""
    return SingleSlideProgress() if n_slides == 1 else SlidesProgress(n_slides)


class SingleSlideProgress(StageBars):
    """Shows a bar for each stage of the only slide."""

    def progress(self, _job: Job) -> SingleSlideProgress:
        """Return where the stages of the job are reported."""
        return self

    def finished(self, outcome: Outcome) -> None:
        """Do nothing: the summary follows."""


class SlidesProgress:
    """Shows a bar for all slides and a bar for each slide that is being predicted."""

    def __init__(self, n_slides: int) -> None:
        console = Console(stderr=True, quiet=is_quiet())
        self.bars = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or is_quiet(),
        )
        self._n_slides, self._n_done = n_slides, 0
        self._all = self.bars.add_task("slides", total=n_slides)
        self._under_way: dict[str, _SlideStages] = {}

    def progress(self, job: Job) -> _SlideStages:
        """Return where the stages of the job are reported."""
        name = str(job.h5ad_path)
        if name not in self._under_way:
            self._under_way[name] = _SlideStages(self.bars, printable(job.slide.name))
        return self._under_way[name]

    def finished(self, outcome: Outcome) -> None:
        """Count a slide; without a terminal, print a line about it."""
        stages = self._under_way.pop(str(outcome.job.h5ad_path), None)
        if stages is not None:
            stages.remove()
        self._n_done += 1
        self.bars.advance(self._all)
        if self.bars.disable and not is_quiet() and outcome.status != "failed":
            spots = counted((outcome.metadata or {}).get("spots", 0), "spot")
            what = f"{outcome.status}, {spots}, {outcome.seconds:.1f} s"
            if outcome.status == "skipped":
                what = f"skipped, complete already, {spots}"
            note_line(f"{self._n_done} of {self._n_slides}: {outcome.job.slide.name}: {what}")

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()


class _SlideStages:
    """Shows the stages of one of several slides; implements ``Progress``."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars, self._name = bars, name
        self._stage, self._total, self._done = "", 0, 0
        self._printed_at = time.monotonic()
        self._task: TaskID | None = None

    def start(self, stage: str, total: int) -> None:
        self.remove()
        self._stage, self._total, self._done = stage, total, 0
        if not self._bars.disable:
            self._task = self._bars.add_task(escape(f"{self._name}: {stage}"), total=total)

    def advance(self, n: int) -> None:
        self._done += n
        if self._task is not None:
            self._bars.advance(self._task, n)
        elif time.monotonic() - self._printed_at >= EVERY_S and not is_quiet():
            self._printed_at = time.monotonic()
            note_line(f"{self._name}: {self._stage}: {self._done} of {self._total}")

    def remove(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
