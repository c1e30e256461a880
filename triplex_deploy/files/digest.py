"""Digest a file's content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from triplex_deploy.files.regular import open_regular


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file as 64 hexadecimal digits; raises ``OSError``."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
