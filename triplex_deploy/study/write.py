"""Write results and tables as files: JSON, Markdown, and a CSV for each table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.study.config import slug
from triplex_deploy.study.tables import Table

TABLES_DIR: Final = "tables"
FIGURES_DIR: Final = "figures"


def write_results(
    out: Path, results: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[Path]
) -> None:
    """Write NAME.json, NAME.md and tables/NAME-*.csv.

    Args:
        out: Folder of the files.
        results: Content of NAME.json.
        tables: Tables of NAME.md and of the CSV files.
        figures: Pictures below ``out`` that NAME.md shows.
    """
    name = slug(results["name"])
    (out / TABLES_DIR).mkdir(parents=True, exist_ok=True)
    for table in tables:
        _write_csv(out / TABLES_DIR / f"{name}-{slug(table.title)}.csv", table)
    _write(out / f"{name}.md", _page(results, tables, [path.relative_to(out) for path in figures]))
    _write(out / f"{name}.json", json.dumps(results, indent=2) + "\n")


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, with its title and note."""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"## {table.title}", "", table.note, "", *rows, ""])


def _page(results: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[Path]) -> str:
    cells, machine = results["cells"], results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        f"# {results['name']}\n",
        *([f"`{results['command']}`\n"] if results["command"] else []),
        f"{cells['done']} of {cells['all']} cells done. {machine['processor']}, "
        f"{machine['cores']} cores; {versions}.\n",
        f"Columns named paper: {results['paper']}.\n",
        *(markdown_table(table) for table in tables),
        *(f"![{path.stem}]({path.as_posix()})\n" for path in figures),
    ]
    if results["failed"]:
        lines = [f"- {failure['cell']}: {failure['error']}" for failure in results["failed"]]
        parts += ["## Failed\n", "\n".join(lines) + "\n"]
    return "\n".join(parts)


def _write_csv(path: Path, table: Table) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table.header, *table.rows])


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
