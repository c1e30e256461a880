"""Define the errors of this package; each message is one line: what, why, and the remedy."""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

_SCARCE: Final = (
    "start new thread",
    "pthread_create",
    "failed to map segment",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "resource temporarily unavailable",
)
"""Words of libraries that get no memory or thread, in lower case."""
_REMEDY_OF: Final = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
        "check the path and its permissions",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or use another disk"),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.EROFS, errno.ENXIO, errno.ETIMEDOUT),
        "check the disk, or use another one",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (`ulimit -n`)"),
}
"""What helps against errors of the system that are about a file, by their number."""
_NARROW_BYTES: Final = 8 << 30
"""Address space below which libraries may fail: they map much more than they use."""
_NARROW_PROCESSES: Final = 256


class TriplexError(Exception):
    """Base class of the errors that this package raises on purpose."""


class ConfigError(TriplexError):
    """A model or option value is unknown or out of range."""


class CheckpointError(TriplexError):
    """A checkpoint cannot be read, or is not of a known format."""


class BundleError(TriplexError):
    """A bundle is missing, incomplete, altered, or of an unknown schema."""


class ContractError(TriplexError):
    """A tensor or a value does not have the name, type or shape that its contract declares."""


class BackendError(TriplexError):
    """The requested device, backend or precision is not available on this machine."""


class ParityError(TriplexError):
    """An exported graph does not reproduce the PyTorch model within its gate."""


class SlideError(TriplexError):
    """A slide cannot be opened, read, or placed on a physical scale."""


class SpotsError(TriplexError):
    """A spots file or layout yields no usable spots."""


class TilingError(TriplexError):
    """An array for the tiling kernels has the wrong dtype, layout or bounds."""


class DatasetError(TriplexError):
    """Measured expression on disk cannot be read, or its parts do not belong together."""


class OutputError(TriplexError):
    """A result cannot be written to the requested place."""


def one_line(error: BaseException) -> str:
    """Return an error as one line; an error that is not a ``TriplexError`` is named as a bug.

    Exceptions are what the system says of a file, such as missing permission, and a lack of memory
    or threads. Narrow limits of this process are named where they may be the reason.
    """
    text = " ".join(str(error).split())
    limits = narrow_limits()
    if isinstance(error, TriplexError):
        return f"{text}; {limits}" if limits and isinstance(error, BackendError) else text
    if "start new thread" in text:
        return "no more threads can be started; raise the limit of processes (`ulimit -u`)"
    if isinstance(error, OSError) and error.errno in _REMEDY_OF:
        named = isinstance(error.filename, str | bytes)
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if named else str(error)
        return f"{' '.join(what.split())}; {_REMEDY_OF[error.errno]}"
    name = type(error).__name__
    is_scarce = isinstance(error, MemoryError) or any(word in text.lower() for word in _SCARCE)
    if is_scarce or (limits and isinstance(error, ImportError | OSError)):
        remedy = limits or "close other programs, or use a machine with more memory"
        return f"there is not enough memory, or no thread is left ({name}: {text}); {remedy}"
    return f"unexpected {name}: {text}; run again with -vv and report the traceback"


def narrow_limits() -> str:
    """Return a remedy that names limits of memory and processes that are narrow, "" if none is."""
    found = []
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= space < _NARROW_BYTES:
        found.append(f"{space >> 20} MB of address space (`ulimit -v`)")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if 0 <= processes < _NARROW_PROCESSES:
        found.append(f"{processes} processes (`ulimit -u`)")
    return f"this process is limited to {' and '.join(found)}: raise the limit" if found else ""
