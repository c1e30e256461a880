"""The run's facts as JSON: beside the prediction, and inside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triplex_deploy.errors import ContractError
from triplex_deploy.outputs.atomic import atomic_path
from triplex_deploy.outputs.prediction import Prediction


def write_sidecar(prediction: Prediction, path: str | Path) -> None:
    """Write ``prediction.run`` as strict JSON, atomically; ``OutputError`` on failure."""
    text = run_to_json(prediction.run, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def run_to_json(run: Mapping[str, Any], indent: int | None = None) -> str:
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
