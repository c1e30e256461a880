"""How a made-up H&E section looks, band by band.

Large structures lie on a coarse raster, fine texture in periodic tiles, nuclei in a list sorted by
row, so that any band of rows is drawn alone in little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

TEXTURE_PX: Final = 1024
BAND_PX: Final = 2**18
"""Pixels drawn at once: some 25 float32 planes of this size are held."""

BACKGROUND_RGB: Final = (244.0, 242.0, 243.0)
HEMATOXYLIN: Final = (0.60, 0.78, 0.30)
"""Absorbance of one unit of stain in R, G and B (natural logarithm)."""
EOSIN: Final = (0.16, 0.80, 0.42)


@dataclass(frozen=True)
class Nuclei:
    """Sorted by ``y``; level-0 pixels. ``stamp`` indexes ``Section.stamps``."""

    x: NDArray[np.int64]  # (K,)
    y: NDArray[np.int64]  # (K,)
    stamp: NDArray[np.int64]  # (K,)
    strength: Field  # (K,)


@dataclass(frozen=True)
class Section:
    """A grown section; ``coarse`` fields are sampled every ``stride_px`` level-0 pixels."""

    size_wh: tuple[int, int]
    stride_px: int
    coarse: dict[str, Field]
    textures: dict[str, Field]
    stamps: tuple[Field, ...]
    nuclei: Nuclei
    staining: tuple[float, float] = (1.0, 1.0)
    """Strength of hematoxylin and eosin, which differs between batches."""

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Rows ``top`` to ``bottom`` of the finest level, (bottom - top, width, 3) RGB."""
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
        """Light left after both stains, with uneven illumination and sensor noise."""
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
        """A periodic texture under these rows, bent by the coarse displacement if ``warped``."""
        height, width = level["tissue"].shape
        y = np.arange(top, top + height)[:, None]
        x = np.arange(width)[None, :]
        if warped:
            y = y + np.rint(level["bend_y"]).astype(np.int32)
            x = x + np.rint(level["bend_x"]).astype(np.int32)
        return np.asarray(self.textures[name][y % TEXTURE_PX, x % TEXTURE_PX])

    def _upsample(self, field: Field, top: int, bottom: int) -> Field:
        """Bilinear interpolation of a coarse field at these rows."""
        rows, row_part = _split(np.arange(top, bottom), self.stride_px)
        columns, column_part = _split(np.arange(self.size_wh[0]), self.stride_px)
        part = row_part[:, None]
        lines = field[rows] * (1 - part) + field[rows + 1] * part
        left, right = lines[:, columns], lines[:, columns + 1]
        return np.asarray(left + (right - left) * column_part, np.float32)

    def _draw_nuclei(self, top: int, bottom: int) -> Field:
        """Hematoxylin of the nuclei in these rows; overlapping ones do not add up."""
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
    """Coarse cell and the fraction within it."""
    cells, rest = np.divmod(positions, stride_px)
    return cells, (rest / stride_px).astype(np.float32)


def smoothstep(values: Field, low: float, high: float) -> Field:
    part = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return np.asarray(part * part * (3 - 2 * part))


def _plateau(values: Field, low: float, rise: float, fall: float, high: float) -> Field:
    """1 between ``rise`` and ``fall``, 0 below ``low`` and above ``high``."""
    return smoothstep(values, low, rise) * (1 - smoothstep(values, fall, high))
