"""Show progress on stderr: bars with the remaining time in a terminal, otherwise lines."""

from __future__ import annotations

import time
from typing import Self

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
from triplex_deploy.cli.streams import note_line

EVERY_S = 15.0
"""Seconds between two lines about a long stage."""


class _Lines:
    """Prints a line when a stage starts, and every ``EVERY_S`` seconds during the stage."""

    def __init__(self) -> None:
        self._stage, self._total, self._done, self._printed_at = "", 0, 0, 0.0

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._print(f"{stage}: {total}")

    def advance(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._printed_at >= EVERY_S:
            self._print(f"{self._stage}: {self._done} of {self._total}")

    def _print(self, text: str) -> None:
        self._printed_at = time.monotonic()
        if not is_quiet():
            note_line(text)


class StageBars:
    """Shows one bar per stage; a context manager that implements ``Progress``."""

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
        """Add the bar of a stage."""
        if self._bars.disable:
            self._line.start(stage, total)
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, n: int) -> None:
        """Move the bar of the current stage."""
        if self._bars.disable:
            self._line.advance(n)
        if self._task is not None:
            self._bars.advance(self._task, n)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
