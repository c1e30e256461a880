"""Divide a level into the parts that are decoded one at a time."""

from __future__ import annotations

from dataclasses import dataclass

CELL_PX = 512
"""Side of the segments of a level if the file has no parts that can be decoded separately."""


@dataclass(frozen=True)
class SegmentGrid:
    """Equal rectangles from a level's top left corner; the last may reach beyond its edge."""

    width_px: int
    """Width of a segment."""
    height_px: int
    """Height of a segment."""
    columns: int
    """Number of columns."""
    rows: int
    """Number of rows."""

    @classmethod
    def over(cls, size_wh: tuple[int, int], width_px: int, height_px: int) -> SegmentGrid:
        """Return segments of the given size over a level of ``size_wh``."""
        return cls(width_px, height_px, -(-size_wh[0] // width_px), -(-size_wh[1] // height_px))

    @property
    def segment_bytes(self) -> int:
        """Bytes of a decoded segment."""
        return 3 * self.width_px * self.height_px
