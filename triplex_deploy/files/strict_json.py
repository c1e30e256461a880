"""Write values as strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triplex_deploy.errors import ContractError


def to_strict_json(run: Mapping[str, Any], indent: int | None = None) -> str:
    """Strict JSON of the run's facts: NumPy scalars, arrays and paths become plain values.

    NaN, infinity and other objects have no JSON and raise ``ContractError``.
    """
    try:
        return json.dumps(run, indent=indent, default=_plain, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"run facts: {error}; keep to text, finite numbers, lists, dicts"
        ) from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
