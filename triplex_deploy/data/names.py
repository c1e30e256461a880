"""Check the names by which tables are joined: no name is missing or listed twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from triplex_deploy.errors import DatasetError

MISSING: Final = frozenset({"", "nan", "NaN", "<NA>", "None"})
"""What a missing name becomes as text."""


def require_named(where: str, what: str, names: Iterable[str]) -> None:
    """Raise ``DatasetError`` if a name is missing; ``what`` is a noun such as ``spot``."""
    for number, name in enumerate(names, 1):
        if name.strip() in MISSING:
            raise DatasetError(
                f"{where}: {what} {number} has no name ({name!r}); name it or remove it"
            )


def require_unique(where: str, what: str, names: Sequence[str]) -> None:
    """Raise ``DatasetError`` for the first name that is missing or listed twice."""
    require_named(where, what, names)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DatasetError(f"{where}: {what} {name} is listed twice; keep one of them")
        seen.add(name)
