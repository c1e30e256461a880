"""Progress on stderr: bars with time left in a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
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

    def start(self, stage: str, total: int) -> None:
        if self._bars.disable and not is_quiet():
            print(f"{stage}: {total}", file=sys.stderr, flush=True)  # noqa: T201
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, n: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, n)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
