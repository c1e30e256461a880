"""Read the numbers that instruments write into small JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as

MAX_BYTES: Final = 1 << 20
"""Largest text that is read; such a file has a few kilobytes."""


def positive_number(path: Path, what: str, key: str, remedy: str) -> float:
    """Return the positive number under a key of the object in a JSON file.

    Args:
        path: The file.
        what: What the file should be, such as ``Xenium experiment``.
        key: The key.
        remedy: What the user can do if the number is missing.

    Raises:
        SpotsError: The file cannot be read, or has no such number.
    """
    text = read_text(path, SpotsError, what, limit=MAX_BYTES)
    with damage_as(SpotsError, f"{path}: not readable as JSON", "copy it again"):
        content = json.loads(text)
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, int | float) or not 0 < found < np.inf:
        raise SpotsError(f"{path}: no {key}; {remedy}")
    return float(found)
