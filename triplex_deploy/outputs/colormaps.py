"""Compute color scales with even steps of lightness, in the OKLab color space."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 256
"""Number of colors of a scale."""
WAYPOINTS: Final = {
    "viridis": ("#440154", "#424086", "#2a788e", "#22a884", "#7ad151", "#fde725"),
    "magma": ("#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"),
    "gray": ("#161616", "#f4f4f4"),
}
"""Hues along each scale. Their lightness is not used: it rises evenly along a scale."""

_RGB_TO_LMS: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def color_table(name: str) -> NDArray[np.uint8]:
    """Return a scale as sRGB, (256, 3), with even steps of OKLab lightness (Ottosson, 2020)."""
    waypoints = np.array([[int(hue[i : i + 2], 16) for i in (1, 3, 5)] for hue in WAYPOINTS[name]])
    lab = _to_oklab(waypoints / 255)  # (W, 3)
    lightness = np.linspace(lab[0, 0], lab[-1, 0], STEPS)
    hue = [np.interp(lightness, lab[:, 0], lab[:, channel]) for channel in (1, 2)]
    rgb = _to_srgb(np.stack([lightness, *hue], axis=1))
    return np.asarray(np.rint(rgb.clip(0, 1) * 255), np.uint8)


def _to_oklab(srgb: NDArray[Any]) -> NDArray[np.float64]:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T)


def _to_srgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    lms = (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3
    linear = (lms @ np.linalg.inv(_RGB_TO_LMS).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
