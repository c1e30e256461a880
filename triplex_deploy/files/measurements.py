"""Keep small measurements of this machine in one JSON file, by key.

Entries are signed: one that this installation did not write is measured again. A file that is
damaged, of others or cannot be written costs a repeated measurement, never an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.files.regular import open_regular
from triplex_deploy.files.signed import is_signed, signature

logger = logging.getLogger(__name__)

SIGNATURE: Final = "signature"
"""Key of an entry's signature in the entry."""


def measurement_key(conditions: Mapping[str, Any]) -> str:
    """Return the key of a measurement: a digest of all conditions that can change its result."""
    text = json.dumps(conditions, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_measurement(path: Path, key: str) -> dict[str, Any] | None:
    """Return what was stored under ``key``; None if there is nothing usable."""
    entry = _read(path).get(key)
    if not isinstance(entry, dict):
        return None
    given = entry.pop(SIGNATURE, None)
    if is_signed(given, path.name, key, _text(entry)):
        return entry
    logger.warning("%s: not written by this installation, or altered; measured again", path)
    return None


def store_measurement(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Store ``entry`` under ``key`` beside the entries that the file has."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        signed = {**entry, SIGNATURE: signature(path.name, key, _text(entry))}
        with atomic_path(path) as temporary:
            text = json.dumps({**_read(path), key: signed}, indent=1)
            temporary.write_text(text, encoding="utf-8")
    except (OSError, OutputError) as error:
        logger.info("%s: the measurement is not stored (%s)", path, error)


def _text(entry: Mapping[str, Any]) -> str:
    """Return an entry as JSON, in which equal entries are equal texts."""
    return json.dumps(json.loads(json.dumps(entry)), sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    if not is_own_folder(path.parent):
        logger.warning("%s: ignored, as others may write into its folder", path)
        return {}
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s: ignored (%s)", path, error)
        return {}
    return content if isinstance(content, dict) else {}
