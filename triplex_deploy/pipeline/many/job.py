"""One slide's worth of work, and what came of it; both travel between processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.pipeline.options import PredictOptions

MAX_NAME_BYTES: Final = 255

Status = Literal["done", "skipped", "failed", "elsewhere"]
"""``skipped``: was complete already; ``elsewhere``: another process holds its lock."""


@dataclass(frozen=True)
class Job:
    """Predict ``slide`` into ``table``, an .h5ad; its JSON and HTML lie beside it.

    With ``resume`` a complete table is left alone, and features saved by an earlier run are used.
    With ``wait`` a slide that another process works on is waited for.
    """

    slide: Path
    table: Path
    options: PredictOptions
    report: bool = True
    resume: bool = True
    wait: bool = False

    @property
    def facts(self) -> Path:
        return self.table.with_name(f"{self.table.stem}.json")

    @property
    def page(self) -> Path:
        return self.table.with_name(f"{self.table.stem}.html")

    @property
    def lock(self) -> Path:
        """Whoever holds this file's lock may write the results."""
        return self._hidden("lock")

    @property
    def part(self) -> Path:
        """Folder of what an unfinished slide has so far; its lock's holder alone touches it."""
        return self._hidden("part")

    def _hidden(self, ending: str) -> Path:
        name = f".{self.table.stem}.{ending}"
        if len(name.encode()) > MAX_NAME_BYTES:
            name = f".{hashlib.sha256(name.encode()).hexdigest()}.{ending}"
        return self.table.with_name(name)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: the run's ``facts`` if its results are complete, else the ``error``.

    ``error`` is one line; ``traceback`` is for the curious; ``messages`` are (level, text) log
    records of a process whose log nobody else sees. ``summary`` is for the index, of a slide that
    was predicted with a report.
    """

    job: Job
    status: Status
    seconds: float
    facts: dict[str, Any] | None = None
    error: str | None = None
    traceback: str | None = None
    messages: tuple[tuple[int, str], ...] = ()
    summary: SlideSummary | None = None
