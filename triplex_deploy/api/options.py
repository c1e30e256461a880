"""Make the options of a step from keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from triplex_deploy.errors import ConfigError

Options = TypeVar("Options")


def checked_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Return a dataclass of options; text for a field that holds a path becomes a path.

    Raises:
        ConfigError: If an option is unknown, or a value does not fit.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(sorted(known))}"
            raise ConfigError(f"option {name}: not known; {hint}")
    types = get_type_hints(kind)
    values = {
        name: Path(value) if isinstance(value, str) and types[name] == Path | None else value
        for name, value in given.items()
    }
    return kind(**values)
