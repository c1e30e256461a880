"""Compare the memory that decoding a picture takes with the memory that is free."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from triplex_deploy.errors import SlideError

logger = logging.getLogger(__name__)

LARGE_BYTES: Final = 1 << 30
"""Pictures that take more than this are announced."""
MEMORY_INFO: Final = Path("/proc/meminfo")
"""Where Linux writes the memory that is free."""
GROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""Where Linux writes the most memory of a container."""
GROUP_USE: Final = Path("/sys/fs/cgroup/memory.current")
"""Where Linux writes the memory that a container uses."""


def free_memory() -> int | None:
    """Return the bytes that can still be allocated without swapping; None if unknown."""
    known = []
    with suppress(OSError, ValueError, IndexError):
        text = MEMORY_INFO.read_text(encoding="ascii").partition("MemAvailable:")[2]
        known.append(int(text.split()[0]) * 1024)
    with suppress(OSError, ValueError):
        known.append(int(GROUP_LIMIT.read_text()) - int(GROUP_USE.read_text()))
    return min(known, default=None)


def require_memory(path: Path, n_bytes: int, size_wh: tuple[int, int]) -> None:
    """Refuse a picture that must be decoded at once and does not fit in memory.

    Args:
        path: The file, for messages.
        n_bytes: Most bytes that decoding takes.
        size_wh: Width and height of the part that is decoded at once.

    Raises:
        SlideError: Less memory is free.
    """
    if n_bytes < LARGE_BYTES:
        return
    what = f"{size_wh[0]}x{size_wh[1]} pixels are decoded at once, which takes {n_bytes / 1e9:.1f}"
    remedy = "convert it to a tiled TIFF, such as with vips tiffsave --tile --pyramid"
    free = free_memory()
    if free is not None and n_bytes > free:
        raise SlideError(f"{path}: {what} GB of memory, and {free / 1e9:.1f} GB are free; {remedy}")
    logger.warning("%s: %s GB of memory; to avoid this, %s", path, what, remedy)
