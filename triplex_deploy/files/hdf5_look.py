"""Let a child process read an HDF5 file first, since the library may hang or crash on damage."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.child import signal_that_ends
from triplex_deploy.files.hdf5_child import ALL

logger = logging.getLogger(__name__)

CHILD: Final = Path(__file__).with_name("hdf5_child.py")
"""The program of the child process."""
BASE_SECONDS: Final = 15.0
"""Longest CPU time that a small file may take; it takes 0.3 s."""
BYTES_PER_SECOND: Final = 10_000_000
"""A larger file gets a second more for each of these."""


def look_first_at_hdf5(
    path: Path,
    kind: type[TriplexError],
    groups: Sequence[str] | None = None,
    remedy: str = "copy it again",
) -> None:
    """Read groups of an HDF5 file in a child process.

    Args:
        path: The file; it exists and is regular.
        kind: The error to raise.
        groups: Names of the groups at the top that will be read, such as ``obs``; None for all.
        remedy: What the user can do about a damaged file.

    Raises:
        TriplexError: ``kind``, if the file ends the child process, or the child does not end.
    """
    if not sys.executable:
        return
    limit_s = BASE_SECONDS + path.stat().st_size / BYTES_PER_SECOND
    names = (ALL,) if groups is None else groups
    command = [sys.executable, "-I", str(CHILD), str(path), *names]
    try:
        ended_by = signal_that_ends(command, limit_s)
    except TimeoutError as error:
        raise kind(
            f"{path}: damaged HDF5, it cannot be read within {limit_s:.0f} s; {remedy}"
        ) from error
    except OSError as error:
        logger.info("%s: read without a first look, no process can be started: %s", path, error)
        return
    if ended_by is not None:
        raise kind(f"{path}: damaged HDF5, the library fails on it ({ended_by}); {remedy}")
