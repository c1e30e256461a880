"""How a level is cut into the parts that are decoded one at a time."""

from __future__ import annotations

from dataclasses import dataclass

CELL_PX = 512
"""Side of the parts of a level whose file has no parts of its own that can be decoded apart."""


@dataclass(frozen=True)
class SegmentGrid:
    """Equal rectangles from a level's top left corner; the last ones may reach beyond its edge."""

    width_px: int
    height_px: int
    columns: int
    rows: int

    @classmethod
    def over(cls, size_wh: tuple[int, int], width_px: int, height_px: int) -> SegmentGrid:
        """Segments of the given size over a level of ``size_wh``."""
        return cls(width_px, height_px, -(-size_wh[0] // width_px), -(-size_wh[1] // height_px))

    @property
    def segment_bytes(self) -> int:
        return 3 * self.width_px * self.height_px
