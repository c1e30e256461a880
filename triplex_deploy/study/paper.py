"""The values the paper prints (Chung et al., CVPR 2024, Tables 1-5), to set beside ours."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import ConfigError

TABLES: Final = Path(__file__).parent / "paper_tables.json"

Printed = dict[str, dict[str, float | None]]
"""Mean and standard deviation by metric; None where the paper prints no deviation."""


def paper_row(table: str, column: str, row: str) -> Printed | None:
    """The values of a row, None where the table does not have it.

    A column that the table does not have raises ``ConfigError``.
    """
    columns = _read()[table]
    if column not in columns:
        raise ConfigError(f"paper: {table} has no column {column}; it has {', '.join(columns)}")
    values = columns[column].get(row)
    if values is None:
        return None
    return {key: {"mean": mean, "std": std} for key, (mean, std) in values.items()}


def paper_source() -> str:
    return str(_read()["source"])


@cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(TABLES.read_text(encoding="utf-8"))
    return content
