"""Turn what a third-party reader raises on a damaged file into an error of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from triplex_deploy.errors import TriplexError

_UNEXPECTED: Final = re.compile(r"\bunexpected\b", re.IGNORECASE)
"""A message with this word reports a bug of this package, which damage is not."""


@contextmanager
def damage_as(
    kind: type[TriplexError],
    what: str,
    remedy: str,
    only: tuple[type[Exception], ...] = (Exception,),
) -> Iterator[None]:
    """Raise errors inside the ``with`` block as ``kind``, with the message ``what: why; remedy``.

    Readers raise any kind of error on a damaged file, ``TypeError`` and ``MemoryError`` included.
    Put only the calls into the reader's library inside the block: an error of our own code there
    would be reported as a damaged file. Errors of this package pass unchanged.

    Args:
        kind: The error to raise.
        what: The file and what was read, such as ``slide.tif: not a readable TIFF``.
        remedy: What the user can do.
        only: The errors to convert. Name the library's own errors where the block also runs code
            of this package.

    Raises:
        TriplexError: ``kind``, from the reader's error.
    """
    try:
        yield
    except TriplexError:
        raise
    except only as error:
        raise kind(f"{what}: {_reason(error)}; {remedy}") from error


def _reason(error: Exception) -> str:
    """Return the error as one line; the kind of a built-in error is named if it tells more."""
    text = _UNEXPECTED.sub("wrong", " ".join(str(error).split()))
    name = type(error).__name__
    speaks = isinstance(error, OSError | ValueError | RuntimeError | MemoryError | SyntaxError)
    if text and (speaks or type(error).__module__ != "builtins"):
        return text
    return f"{name}: {text}" if text else name
