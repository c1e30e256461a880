"""Write results and tables as files: JSON, Markdown, and a CSV for each table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from triplex_deploy.files.atomic import atomic_paths
from triplex_deploy.files.ours import exists, has_keys, require_ours
from triplex_deploy.study.config import slug
from triplex_deploy.study.tables import Table

TABLES_DIR: Final = "tables"
FIGURES_DIR: Final = "figures"


def write_results(
    out: Path, results: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[Path]
) -> None:
    """Write NAME.json, NAME.md and tables/NAME-*.csv, all or none.

    Args:
        out: Folder of the files.
        results: Content of NAME.json.
        tables: Tables of NAME.md and of the CSV files.
        figures: Pictures below ``out`` that NAME.md shows.
    """
    name = slug(results["name"])
    (out / TABLES_DIR).mkdir(parents=True, exist_ok=True)
    page = _page(results, tables, [path.relative_to(out) for path in figures])
    text_of = {
        out / f"{name}.json": json.dumps(results, indent=2) + "\n",
        out / f"{name}.md": page,
        **{out / TABLES_DIR / f"{name}-{slug(t.title)}.csv": _csv(t) for t in tables},
    }
    require_own_results(out, name, text_of)
    with atomic_paths(*text_of) as temporary:
        for path, text in zip(temporary, text_of.values(), strict=True):
            path.write_text(text, encoding="utf-8", newline="")


def require_own_results(out: Path, name: str, paths: Iterable[Path] = ()) -> None:
    """Raise ``OutputError`` if a file that no study wrote has the name of a result.

    Args:
        out: Folder of the files.
        name: Name of the study in file names.
        paths: Files to write, besides NAME.json and NAME.md.
    """
    path = out / f"{name}.json"
    require_ours(path, has_keys("name", "cells"), "results of a study")
    has_results = exists(path)  # it is the first file to get its name
    for other in (out / f"{name}.md", *paths):
        require_ours(other, lambda _: has_results, "a result of a study")


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


def _csv(table: Table) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([table.header, *table.rows])
    return text.getvalue()
