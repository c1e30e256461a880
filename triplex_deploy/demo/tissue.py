"""Draw a synthetic H&E section, band by band.

Large structures are on a coarse raster, fine textures are periodic, and nuclei are a list sorted by
row. So any band of rows can be drawn separately, with little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""Values (height, width) on a raster."""

TEXTURE_PX: Final = 1024
"""Period of the textures."""
BAND_PX: Final = 2**18
"""Pixels drawn at a time, which take about 25 float32 arrays of this size."""

BACKGROUND_RGB: Final = (244.0, 242.0, 243.0)
HEMATOXYLIN: Final = (0.60, 0.78, 0.30)
"""Absorbance of a unit of hematoxylin in R, G and B (natural logarithm)."""
EOSIN: Final = (0.16, 0.80, 0.42)
"""Absorbance of a unit of eosin in R, G and B (natural logarithm)."""


@dataclass(frozen=True)
class Nuclei:
    """The K nuclei of a section, sorted by ``y``."""

    x: NDArray[np.int64]
    """(K,) columns in level-0 pixels."""
    y: NDArray[np.int64]
    """(K,) rows in level-0 pixels."""
    stamp: NDArray[np.int64]
    """(K,) indices into ``Section.stamps``."""
    strength: Field
    """(K,) factors of the stamps."""


@dataclass(frozen=True)
class Section:
    """A synthetic section, ready to be drawn."""

    size_wh: tuple[int, int]
    """Width and height in level-0 pixels."""
    stride_px: int
    """Distance of the coarse raster's points in level-0 pixels."""
    coarse: dict[str, Field]
    """Fields on the coarse raster, by name."""
    textures: dict[str, Field]
    """Periodic textures of ``TEXTURE_PX``, by name."""
    stamps: tuple[Field, ...]
    """Hematoxylin of single nuclei."""
    nuclei: Nuclei
    """Where nuclei are, and which stamp each has."""
    staining: tuple[float, float] = (1.0, 1.0)
    """Strength of hematoxylin and eosin, which differs between batches."""

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Draw rows ``top`` to ``bottom`` of the finest level: RGB (bottom - top, width, 3)."""
        step = max(1, BAND_PX // self.size_wh[0])
        bands = [self._band(y, min(y + step, bottom)) for y in range(top, bottom, step)]
        return np.concatenate(bands)

    def _band(self, top: int, bottom: int) -> NDArray[np.uint8]:
        level = {name: self._upsample(field, top, bottom) for name, field in self.coarse.items()}
        fibers, grain = self._fibers(level, top), self._texture("grain", level, top, warped=False)
        covered = smoothstep(level["tissue"] + 0.004 * grain, -0.004, 0.010)
        epithelium = _plateau(level["gland"] + 0.02 * grain, 0.42, 0.47, 0.97, 1.03)
        lumen = 1 - smoothstep(level["gland"] + 0.02 * grain, 0.42, 0.47)
        sheet = smoothstep(level["tumor"], 0.9, 1.1)
        cleft = smoothstep(fibers, -2.3, -1.5)
        stroma = (0.50 + 0.11 * level["shade"] + 0.17 * fibers).clip(0.12) * cleft
        cytoplasm = 0.40 + 0.05 * grain + 0.05 * level["shade"]
        eosin = stroma + (cytoplasm - stroma) * np.maximum(epithelium, sheet)
        eosin = covered * (eosin * (1 - lumen) + 0.03 * lumen)
        basophilia = covered * (0.035 + 0.20 * epithelium + 0.13 * sheet) * (1 + 0.25 * grain)
        hematoxylin = basophilia + self._draw_nuclei(top, bottom) * (1 + 0.14 * grain)
        return self._develop(eosin, hematoxylin, level, top)

    def _develop(
        self, eosin: Field, hematoxylin: Field, level: dict[str, Field], top: int
    ) -> NDArray[np.uint8]:
        """Return the light left after both stains, with uneven illumination and sensor noise."""
        noise = self._texture("noise", level, top, warped=False)
        image = np.empty((*eosin.shape, 3), np.uint8)
        blue, pink = self.staining
        for channel, white in enumerate(BACKGROUND_RGB):
            absorbed = EOSIN[channel] * pink * eosin + HEMATOXYLIN[channel] * blue * hematoxylin
            light = (white + (1.6 - 0.3 * channel) * level["light"]) * np.exp(-absorbed)
            image[..., channel] = (light + noise).clip(0, 255).astype(np.uint8)
        return image

    def _fibers(self, level: dict[str, Field], top: int) -> Field:
        across = self._texture("across", level, top, warped=True)
        along = self._texture("along", level, top, warped=True)
        weight = smoothstep(level["turn"], -0.6, 0.6)
        return across + (along - across) * weight

    def _texture(self, name: str, level: dict[str, Field], top: int, *, warped: bool) -> Field:
        """Return a texture from row ``top`` on, bent by the coarse displacement if ``warped``."""
        height, width = level["tissue"].shape
        y = np.arange(top, top + height)[:, None]
        x = np.arange(width)[None, :]
        if warped:
            y = y + np.rint(level["bend_y"]).astype(np.int32)
            x = x + np.rint(level["bend_x"]).astype(np.int32)
        return np.asarray(self.textures[name][y % TEXTURE_PX, x % TEXTURE_PX])

    def _upsample(self, field: Field, top: int, bottom: int) -> Field:
        """Return a coarse field at these rows, by bilinear interpolation."""
        rows, row_part = _split(np.arange(top, bottom), self.stride_px)
        columns, column_part = _split(np.arange(self.size_wh[0]), self.stride_px)
        part = row_part[:, None]
        lines = field[rows] * (1 - part) + field[rows + 1] * part
        left, right = lines[:, columns], lines[:, columns + 1]
        return np.asarray(left + (right - left) * column_part, np.float32)

    def _draw_nuclei(self, top: int, bottom: int) -> Field:
        """Return the hematoxylin of the nuclei in these rows; overlaps are not added up."""
        margin = max(stamp.shape[0] for stamp in self.stamps)
        canvas = np.zeros((bottom - top + 2 * margin, self.size_wh[0] + 2 * margin), np.float32)
        nuclei = self.nuclei
        first, last = np.searchsorted(nuclei.y, (top - margin // 2, bottom + margin // 2))
        for index in range(int(first), int(last)):
            stamp = self.stamps[nuclei.stamp[index]]
            size = stamp.shape[0]
            y = int(nuclei.y[index]) - top + margin - size // 2
            x = int(nuclei.x[index]) + margin - size // 2
            window = canvas[y : y + size, x : x + size]
            np.maximum(window, stamp * nuclei.strength[index], out=window)
        return canvas[margin:-margin, margin:-margin]


def _split(positions: NDArray[np.int64], stride_px: int) -> tuple[NDArray[np.int64], Field]:
    """Return the point of the coarse raster before each position, and the fraction after it."""
    points, rest = np.divmod(positions, stride_px)
    return points, (rest / stride_px).astype(np.float32)


def smoothstep(values: Field, low: float, high: float) -> Field:
    """Return 0 below ``low``, 1 above ``high``, and a smooth transition between."""
    part = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return np.asarray(part * part * (3 - 2 * part))


def _plateau(values: Field, low: float, rise: float, fall: float, high: float) -> Field:
    """Return 1 between ``rise`` and ``fall``, and 0 below ``low`` and above ``high``."""
    return smoothstep(values, low, rise) * (1 - smoothstep(values, fall, high))
