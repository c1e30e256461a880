"""Read the values that the paper prints, to show them beside the results.

Source: Chung et al., CVPR 2024, Tables 1 to 5.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import ConfigError

TABLES_FILE: Final = Path(__file__).parent / "paper_tables.json"

Printed = dict[str, dict[str, float | None]]
"""Mean and standard deviation by metric; None if the paper prints no deviation."""


def paper_row(table: str, column: str, row: str) -> Printed | None:
    """Return the values of a row, or None if the table does not have the row.

    Raises:
        ConfigError: If the table does not have the column.
    """
    columns = _read()[table]
    if column not in columns:
        raise ConfigError(f"paper: {table} has no column {column}; it has {', '.join(columns)}")
    values = columns[column].get(row)
    if values is None:
        return None
    return {key: {"mean": mean, "std": std} for key, (mean, std) in values.items()}


def paper_source() -> str:
    """Return which publication the values are from."""
    return str(_read()["source"])


@cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(TABLES_FILE.read_text(encoding="utf-8"))
    return content
