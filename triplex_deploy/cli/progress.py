"""Progress on stderr: bars with time left in a terminal, one line per stage elsewhere."""

from __future__ import annotations

import time
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from triplex_deploy.cli.shared import is_quiet

EVERY_S = 15.0
"""How often a log without a terminal hears of a long stage."""


class _Lines:
    """A line when a stage starts, and while it is long, one now and then."""

    def __init__(self) -> None:
        self._stage, self._total, self._done, self._said = "", 0, 0, 0.0

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._say(f"{stage}: {total}")

    def advance(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._said >= EVERY_S:
            self._say(f"{self._stage}: {self._done} of {self._total}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        if not is_quiet():
            click.echo(text, err=True)


class StageBars:
    """One bar per stage of a prediction; a context manager and the pipeline's ``Progress``."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, quiet=is_quiet())
        self._bars = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or is_quiet(),
        )
        self._task: TaskID | None = None
        self._line = _Lines()

    def start(self, stage: str, total: int) -> None:
        if self._bars.disable:
            self._line.start(stage, total)
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, n: int) -> None:
        if self._bars.disable:
            self._line.advance(n)
        if self._task is not None:
            self._bars.advance(self._task, n)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
