"""Know a URL from a path."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Return True for a text such as ``s3://bucket/slide.svs``."""
    return _URL.match(text) is not None


def shown_url(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def url_file_name(url: str) -> str:
    """Return the name of the file at a URL, ``""`` if it names none."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return "" if name in ("", ".", "..") or "\0" in name else name
