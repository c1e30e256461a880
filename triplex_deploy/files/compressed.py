"""Read text files, gzip too, up to a limit of their size."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Final, cast

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file

GZIP: Final = b"\x1f\x8b"
"""First bytes of a gzip file."""
MAX_TEXT_BYTES: Final = 1 << 30
"""A gzip of a few MB can hold more than memory; no table of one section is this long."""


def read_text(
    path: Path,
    kind: type[TriplexError],
    what: str,
    remedy: str = "copy it again",
    limit: int = MAX_TEXT_BYTES,
) -> str:
    """Return the text of a UTF-8 file, decompressed if it is gzip.

    Args:
        path: The file.
        kind: The error to raise.
        what: What the file should be, such as ``table of counts``.
        remedy: What the user can do about a damaged file.
        limit: Largest number of bytes after decompression.

    Returns:
        The text without a byte order mark, with ``\\n`` as the end of lines.

    Raises:
        TriplexError: ``kind``, if the file is missing, damaged, too long or not UTF-8.
    """
    require_regular_file(path, kind, what)
    with damage_as(kind, f"{path}: cannot be read", remedy):
        with path.open("rb") as stored:
            is_gzip = stored.read(2) == GZIP
            stored.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=stored)) if is_gzip else stored
            data = stream.read(limit + 1)
        text = "" if len(data) > limit else data.decode("utf-8-sig")
    if len(data) > limit:
        raise kind(f"{path}: longer than {limit >> 20} MiB, which no {what} is; check the file")
    return text.replace("\r\n", "\n").replace("\r", "\n")
