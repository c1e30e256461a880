"""Know a URL from a path."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

BUCKETS: Final = ("s3", "gs", "gcs", "memory")
"""Schemes in which ``?``, ``#`` and ``%`` are letters of a name; only a version may follow it."""


def is_url(text: str) -> bool:
    """Return True for a text such as ``s3://bucket/slide.svs``."""
    return _URL.match(text) is not None


def shown_url(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and the query."""
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc.rpartition('@')[2]}{_path(url)}"


def url_file_name(url: str) -> str:
    """Return the name of the file at a URL, ``""`` if it names none."""
    path = _path(url) if _is_in_a_bucket(url) else unquote(_path(url))
    name = PurePosixPath(path).name
    return "" if name in ("", ".", "..") or "\0" in name else name


def _path(url: str) -> str:
    """Return the path of a URL."""
    if not _is_in_a_bucket(url):
        return urlsplit(url).path
    _, slash, key = url.partition("://")[2].partition("/")
    return slash + key.partition("?versionId=")[0]


def _is_in_a_bucket(url: str) -> bool:
    return urlsplit(url).scheme in BUCKETS
