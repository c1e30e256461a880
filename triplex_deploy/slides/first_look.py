"""Let a child process look at a slide first, since a native library may end its process.

OpenSlide's libraries abort the process if memory for a wrong size is not to be had, and a damaged
file may crash them. The child opens the slide, reads its properties, a thumbnail and two places of
each level. If the file ends the child, only this slide fails.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from triplex_deploy.errors import SlideError
from triplex_deploy.files.child import signal_that_ends
from triplex_deploy.slides.identity import FileIdentity
from triplex_deploy.slides.openslide_pixels import library_name

logger = logging.getLogger(__name__)

MAX_SECONDS = 30.0
"""Longest CPU time of a first look, which takes less than 0.1 s; it may wait longer for a disk."""
CHILD = Path(__file__).with_name("first_look_child.py")
"""The program of the child process."""
_SURVIVED: set[tuple[str, FileIdentity]] = set()
"""Files that a child process of this process has looked at without harm."""


def look_first(path: Path, identity: FileIdentity) -> None:
    """Let a child process look at a slide, once for each file.

    Args:
        path: The file.
        identity: Its identity; a file that has changed is looked at again.

    Raises:
        SlideError: The file ends the child process, or the child does not end.
    """
    known = (str(path), identity)
    if known in _SURVIVED:
        return
    ended_by = _run(path)
    if ended_by is not None:
        raise SlideError(
            f"{path}: the library OpenSlide fails on this file ({ended_by}); "
            "the file is damaged: copy it again"
        )
    _SURVIVED.add(known)


def _run(path: Path) -> str | None:
    """Return the signal that ended the child; None for no signal, or if none can be started."""
    if not sys.executable:
        return None
    command = [sys.executable, "-I", "-S", str(CHILD), library_name(), str(path)]
    try:
        return signal_that_ends(command, MAX_SECONDS)
    except TimeoutError as error:
        raise SlideError(
            f"{path}: the library OpenSlide does not answer ({error}); "
            "the file is damaged or its disk does not answer: copy it to a local disk"
        ) from error
    except OSError as error:
        logger.info("%s: opened without a first look, no process can be started: %s", path, error)
        return None
