"""Print the outcomes of slides: as JSON, as one line, or as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from triplex_deploy.cli.shared import is_quiet, print_summary
from triplex_deploy.files.escape import printable

if TYPE_CHECKING:
    from triplex_deploy.cohort.job import Outcome

COLUMNS: Final = ("slide", "spots", "seconds", "spots/s", "status", "error")
"""Columns of the table."""
_NUMBERS: Final = COLUMNS[1:4]


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
        if index is not None:
            console.print(f"all slides: {escape(printable(_as_typed(index, out)))}", soft_wrap=True)
        return
    if len(outcomes) == 1:
        lines = [_line(outcome, out) for outcome in outcomes if outcome.metadata is not None]
    else:
        lines = ["\t".join(map(printable, cells)) for cells in (COLUMNS, *rows)]
    print_summary(as_json, summary_of(outcomes, index), lines)


def _complete(outcome: Outcome) -> dict[str, Any]:
    job = outcome.job
    return {
        "slide": str(job.slide),
        "prediction": str(job.h5ad_path),
        "report": str(job.report_path) if job.report else None,
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


def _line(outcome: Outcome, out: Path) -> str:
    metadata = outcome.metadata or {}
    kept = " (complete already)" if outcome.status == "skipped" else ""
    return (
        f"{_as_typed(outcome.job.h5ad_path, out)}: {metadata['spots']} spots, "
        f"{metadata['tiles_encoded']} tiles, "
        f"{metadata['spots_per_s']} spots/s on {metadata['device']}{kept}"
    )


def _as_typed(path: Path, out: Path) -> str:
    """Return an absolute path in the output folder, beginning with the folder as it was typed."""
    return str(out / path.relative_to(os.path.abspath(out)))  # noqa: PTH100 - links stay


def _row(outcome: Outcome) -> tuple[str, ...]:
    """Return the texts of ``COLUMNS``; a value that this run did not measure is empty."""
    spots = (outcome.metadata or {}).get("spots")
    measured = outcome.status == "done" and spots is not None
    return (
        outcome.job.slide.name,
        "" if spots is None else str(spots),
        "" if outcome.status == "skipped" else f"{outcome.seconds:.1f}",
        f"{spots / outcome.seconds:.1f}" if measured and spots is not None else "",
        outcome.status,
        outcome.error or "",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in rows:
        # brackets in names are not markup
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table
