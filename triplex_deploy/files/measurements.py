"""Keep small measurements of this machine in one JSON file, by key.

A file that is damaged or cannot be written costs a repeated measurement, never an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path

logger = logging.getLogger(__name__)


def measurement_key(conditions: Mapping[str, Any]) -> str:
    """Return the key of a measurement: a digest of all conditions that can change its result."""
    text = json.dumps(conditions, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_measurement(path: Path, key: str) -> dict[str, Any] | None:
    """Return what was stored under ``key``; None if there is nothing usable."""
    entry = _read(path).get(key)
    return entry if isinstance(entry, dict) else None


def store_measurement(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Store ``entry`` under ``key`` beside the entries that the file has."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            text = json.dumps({**_read(path), key: dict(entry)}, indent=1)
            temporary.write_text(text, encoding="utf-8")
    except (OSError, OutputError) as error:
        logger.info("%s: the measurement is not stored (%s)", path, error)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s: ignored (%s)", path, error)
        return {}
    return content if isinstance(content, dict) else {}
