"""Hold the color scales: matplotlib's viridis and magma, and gray."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 256
"""Number of colors of a scale."""
SCALES: Final = {
    "viridis": (
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f4889"
        "3d4e8a3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e"
        "23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc74"
        "46c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11f"
        "d8e219e5e419f1e51dfde725"
    ),
    "magma": (
        "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f75"
        "4a107952137c5a167e6219806a1c81721f82792282812581892881912b81992d80a1307e"
        "aa337db2357bba3878c23b75ca3e72d2426fd9466be04c67e75263ec5860f1605df4695c"
        "f7725cf97b5dfb8560fc8e64fd9869fea16efeaa74feb47bfebd82fec68afecf92fed89a"
        "fde2a3fdebacfcf4b6fcfdbf"
    ),
    "gray": "161616f4f4f4",
}
"""sRGB colors at even distances along each scale, as hexadecimal text.

Every fifth color of viridis and magma (Smith and van der Walt, 2015; public domain) is enough:
between them, no channel is more than 1 of 255 away from matplotlib's table.
"""


def color_table(name: str) -> NDArray[np.uint8]:
    """Return a scale as sRGB, (256, 3)."""
    known = np.frombuffer(bytes.fromhex(SCALES[name]), np.uint8).reshape(-1, 3)
    places = np.linspace(0, STEPS - 1, len(known))
    channels = [np.interp(np.arange(STEPS), places, channel) for channel in known.T]
    return np.asarray(np.rint(np.stack(channels, axis=1)), np.uint8)
