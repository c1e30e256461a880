"""One slide a caller named, and what the caller said of it alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlideEntry:
    """``output`` is the name of its results below the output folder, without ``.h5ad``.

    ``spots`` and ``mpp`` (microns per pixel) take the place of the options for all slides.
    ``origin`` is where it was named, for messages: a path, or a manifest and its line.
    """

    slide: Path
    output: str
    origin: str
    spots: Path | None = None
    mpp: float | None = None
