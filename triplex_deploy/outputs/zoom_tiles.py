"""Describe the tiles of a slide that lie beside its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class ZoomTiles:
    """A pyramid of tiles in the layout of Deep Zoom, in a folder beside the report."""

    folder_name: str
    """Name of the folder."""
    width: int
    """Width of the finest level in pixels."""
    height: int
    """Height of the finest level in pixels."""
    level0_per_px: float
    """Level-0 pixels per pixel of the finest level."""
    tile_px: int
    """Side of a tile."""
    present: tuple[tuple[str, ...], ...]
    """For each level, from one pixel to the finest, a text of ``1`` and ``0`` for each row of
    tiles: 0 is no file."""

    def data(self) -> dict[str, Any]:
        """Return what the script of the page reads."""
        return {
            "folder": quote(self.folder_name),
            "width": self.width,
            "height": self.height,
            "scale": self.level0_per_px,
            "tile": self.tile_px,
            "present": self.present,
        }
