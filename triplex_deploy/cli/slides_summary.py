"""Print the outcomes of slides: as JSON, as one line, or as a table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from triplex_deploy.cli.shared import counted, is_quiet, print_summary
from triplex_deploy.cli.streams import note_line
from triplex_deploy.files.escape import printable
from triplex_deploy.progress import OTHER, TOTAL

if TYPE_CHECKING:
    from triplex_deploy.cohort.job import Outcome

COLUMNS: Final = ("slide", "spots", "seconds", "spots/s", "status", "error")
"""Columns of the table."""
_NUMBERS: Final = COLUMNS[1:4]
LEAST_SHOWN_S: Final = 0.05
"""Shortest stage that is named, in seconds."""


def summary_of(outcomes: Sequence[Outcome], index: Path | None) -> dict[str, Any]:
    """Return ``done``, complete slides with their metadata, and ``failed``, the other slides."""
    return {
        "index": None if index is None else str(index),
        "done": [_complete(outcome) for outcome in outcomes if outcome.metadata is not None],
        "failed": [_failed(outcome) for outcome in outcomes if outcome.metadata is None],
    }


def print_slides(
    outcomes: Sequence[Outcome], as_json: bool, out: Path, index: Path | None = None
) -> None:
    """Print a line for a single slide, and a table for several slides.

    Args:
        outcomes: The outcome of each slide.
        as_json: Print JSON instead, in which all paths are absolute.
        out: The output folder as the user typed it; printed paths begin with it.
        index: The page of all slides; None if there is none.
    """
    rows = [_row(outcome) for outcome in outcomes]
    console = Console()
    if len(outcomes) > 1 and console.is_terminal and not (as_json or is_quiet()):
        console.print(_table(rows))
    elif len(outcomes) == 1:
        lines = [line for outcome in outcomes for line in _lines(outcome, out)]
        print_summary(as_json, summary_of(outcomes, index), lines)
    else:
        lines = ["\t".join(map(printable, cells)) for cells in (COLUMNS, *rows)]
        print_summary(as_json, summary_of(outcomes, index), lines)
    if index is not None and not (as_json or is_quiet()):
        note_line(f"next: open {_as_typed(index, out)} in a browser; it links all slides")


def _complete(outcome: Outcome) -> dict[str, Any]:
    job = outcome.job
    return {
        "slide": str(job.slide),
        "prediction": str(job.h5ad_path),
        "report": str(job.report_path) if job.report else None,
        "metadata": str(job.metadata_path),
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        **(outcome.metadata or {}),
    }


def _failed(outcome: Outcome) -> dict[str, Any]:
    return {
        "slide": str(outcome.job.slide),
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "error": outcome.error,
    }


def _lines(outcome: Outcome, out: Path) -> list[str]:
    """Return what was written, where the time went, and the next step; nothing after a failure."""
    job, metadata = outcome.job, outcome.metadata
    if metadata is None:
        return []
    table = _as_typed(job.h5ad_path, out)
    kept = " (complete already)" if outcome.status == "skipped" else ""
    lines = [
        f"{table}: {counted(metadata['spots'], 'spot')}, "
        f"{counted(metadata['tiles_encoded'], 'tile')}, "
        f"{metadata['spots_per_s']} spots/s on {metadata['device']}{kept}",
        f"{_as_typed(job.metadata_path, out)}: how it was predicted",
    ]
    if outcome.status == "done" and TOTAL in metadata.get("wall_s", {}):
        lines.append(_time_line(metadata["wall_s"]))
    next_step = f"triplex-deploy report {shlex.quote(table)}"
    if job.report:
        report = _as_typed(job.report_path, out)
        lines.insert(1, f"{report}: report")
        next_step = f"open {report} in a browser"
    return [*lines, f"next: {next_step}; triplex-deploy convert --help lists other formats"]


def _time_line(wall_s: Mapping[str, float]) -> str:
    """Return the elapsed time with its stages, which add up to it; those near zero are one."""
    stages = {name: seconds for name, seconds in wall_s.items() if name != TOTAL}
    shown = {name: s for name, s in stages.items() if name != OTHER and s >= LEAST_SHOWN_S}
    shown[OTHER] = sum(stages.values()) - sum(shown.values())
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in shown.items())
    return f"time: {wall_s[TOTAL]:.1f} s = {parts}"


def _as_typed(path: Path, out: Path) -> str:
    """Return an absolute path in the output folder, beginning with the folder as it was typed."""
    return str(out / path.relative_to(os.path.abspath(out)))  # noqa: PTH100 - links stay


def _row(outcome: Outcome) -> tuple[str, ...]:
    """Return the texts of ``COLUMNS``; a value that this run did not measure is empty."""
    spots, slide = (outcome.metadata or {}).get("spots"), outcome.job.slide
    measured = outcome.status == "done" and spots is not None
    return (
        slide.name,
        "" if spots is None else str(spots),
        "" if outcome.status == "skipped" else f"{outcome.seconds:.1f}",
        f"{spots / outcome.seconds:.1f}" if measured and spots is not None else "",
        outcome.status,
        (outcome.error or "").removeprefix(f"{slide}: "),  # the first column names it
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in rows:
        # brackets in names are not markup
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table
