"""Describe a file format of predictions; each format's own file makes one of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileFormat:
    """The name of a format, and how its files are written and recognized."""

    name: str
    """Name in ``convert --to``."""
    suffix: str
    """End of a file name, with its dot."""
    description: str
    """A phrase for the help of ``convert``, after the name."""
    write: Callable[..., None]
    """Writes a ``Prediction`` to a path; also takes ``pixel_um`` if ``has_pixels``, and
    ``qupath_bounds`` if ``has_bounds``."""
    is_own: Callable[[Path], bool]
    """Returns True for an existing path that this package wrote in this format."""
    library: str | None = None
    """Package of the ``files`` extra that the format needs."""
    is_folder: bool = False
    """True if the format is a folder."""
    has_pixels: bool = False
    """True if the format is a picture with a pixel size."""
    has_bounds: bool = False
    """True if coordinates can begin at the scanned part of a slide, as in QuPath."""
