"""Read text files, gzip too, up to a limit of their size."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import open_regular, require_regular_file

GZIP: Final = b"\x1f\x8b"
"""First bytes of a gzip file."""
UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of UTF-16, in which Excel saves "Unicode text"."""
MAX_TEXT_BYTES: Final = 1 << 30
"""A gzip of a few MB can hold more than memory; no table of one section is this long."""


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; gzip, by its first bytes or its name, is decompressed.

    Args:
        path: The file.

    Yields:
        The stream of the content.

    Raises:
        OSError: The file cannot be opened. Reading damaged gzip raises this and ``zlib.error``.
    """
    packed = is_packed(path)
    with open_regular(path) as stored:
        if packed:
            with gzip.GzipFile(fileobj=stored) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield stored


def is_packed(path: Path) -> bool:
    """Return True for a file that ``open_unpacked`` decompresses; raises ``OSError``."""
    with open_regular(path) as stored:
        return stored.read(len(GZIP)) == GZIP or path.suffix.lower() == ".gz"


def read_text(
    path: Path,
    kind: type[TriplexError],
    what: str,
    remedy: str = "copy it again",
    limit: int = MAX_TEXT_BYTES,
) -> str:
    """Return the text of a UTF-8 or UTF-16 file, decompressed if it is gzip.

    Args:
        path: The file.
        kind: The error to raise.
        what: What the file should be, such as ``table of counts``.
        remedy: What the user can do about a damaged file.
        limit: Largest number of bytes after decompression.

    Returns:
        The text without a byte order mark, with ``\\n`` as the end of lines.

    Raises:
        TriplexError: ``kind``, if the file is missing, damaged, too long, or of another encoding.
    """
    require_regular_file(path, kind, what)
    with damage_as(kind, f"{path}: cannot be read", remedy), open_unpacked(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise kind(f"{path}: longer than {limit >> 20} MiB, which no {what} is; check the file")
    try:
        text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not UTF-8 text; save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
