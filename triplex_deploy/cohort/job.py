"""One slide's worth of work, and what came of it; both travel between processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.cohort.inputs import SlideEntry
from triplex_deploy.errors import ConfigError
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


def plan_jobs(
    entries: Sequence[SlideEntry],
    options: PredictOptions,
    out: Path,
    report: bool = True,
    resume: bool = True,
) -> list[Job]:
    """One job per slide, with absolute paths and its own spots and mpp over ``options``.

    Raises ``ConfigError`` where two slides would write the same file, where a file that belongs to
    one slide is given for several, or where a slide's own values contradict the options.
    """
    _require_one_slide(entries, options)
    _require_distinct_outputs(entries)
    folder = _absolute(out)
    return [
        Job(
            slide=_absolute(entry.slide),
            table=folder / f"{entry.output}.h5ad",
            options=_own_options(entry, options),
            report=report,
            resume=resume,
        )
        for entry in entries
    ]


def _own_options(entry: SlideEntry, options: PredictOptions) -> PredictOptions:
    spots = options.spots if entry.spots is None else entry.spots
    try:
        return replace(
            options,
            spots=_absolute(spots) if isinstance(spots, str | Path) else spots,
            mask=None if options.mask is None else _absolute(options.mask),
            cache=None if options.cache is None else _absolute(options.cache),
            mpp=options.mpp if entry.mpp is None else entry.mpp,
        )
    except ConfigError as error:
        raise ConfigError(f"{entry.origin}: {error}") from error


def _require_one_slide(entries: Sequence[SlideEntry], options: PredictOptions) -> None:
    for option in ("spots", "mask"):
        file = getattr(options, option)
        if file is not None and len(entries) > 1:
            raise ConfigError(
                f"--{option} {file}: belongs to one slide; predict {len(entries)} one by one, "
                "or name the spots of each in a manifest"
            )


def _require_distinct_outputs(entries: Sequence[SlideEntry]) -> None:
    origin_of: dict[str, str] = {}
    for entry in entries:
        if entry.output in origin_of:
            raise ConfigError(
                f"{entry.origin}: two slides share this name, and so the output "
                f"{entry.output}.h5ad of {origin_of[entry.output]}; predict them into different "
                "--out folders, or name an output for each in a manifest"
            )
        origin_of[entry.output] = entry.origin


def _absolute(path: str | Path) -> Path:
    """The path as seen from other processes; links stay links, which name the results."""
    return Path(os.path.abspath(path))  # noqa: PTH100
