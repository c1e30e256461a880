"""Write values as strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triplex_deploy.errors import ContractError
from triplex_deploy.files.escape import encodable


def to_strict_json(run: Mapping[str, Any], indent: int | None = None) -> str:
    """Return values as strict JSON; NumPy scalars, arrays and paths become plain values.

    Args:
        run: The values, such as the metadata of a run.
        indent: Spaces per level; None writes one line.

    Raises:
        ContractError: If a value has no JSON form, such as NaN, infinity or another object.
    """
    try:
        text = json.dumps(run, indent=indent, default=_plain, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"run metadata: {error}; use text, finite numbers, lists and dictionaries"
        ) from error
    return encodable(text)  # JSON writes half a character in the same way


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
