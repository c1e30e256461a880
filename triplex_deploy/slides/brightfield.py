"""Look at the picture of a slide: is it stained tissue on a bright background, as H&E is?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DARK: Final = 64
"""Pixels whose brightest channel is below this are dark."""
MAX_DARK_SHARE: Final = 0.5
"""Largest share of dark pixels of a brightfield picture; a DAPI slide has 0.8, H&E at most 0.01."""
STAINED: Final = 0.3
"""Optical density of red, green and blue together from which a pixel counts as stained."""
MIN_STAINED_SHARE: Final = 0.001
"""Least share of stained pixels from which the color is judged."""
BROWN: Final = 1.1
"""Least ratio of the optical density of blue to that of green in brown stains.

Of hematoxylin it is 0.4 and of eosin 0.1, of DAB 1.4 (Ruifrok and Johnston 2001); H&E slides have
0.4 to 0.8.
"""


def not_brightfield_he(picture: NDArray[np.uint8]) -> str | None:
    """Return why a picture is hardly an H&E slide in brightfield, or None if nothing speaks so.

    It is a quick look at a thumbnail. None does not mean that the picture is H&E.

    Args:
        picture: RGB pixels (h, w, 3) of a whole slide.
    """
    pixels = picture.reshape(-1, 3)
    dark = float((pixels.max(axis=1) < DARK).mean())
    if dark > MAX_DARK_SHARE:
        return f"{dark:.0%} of it is dark, as in fluorescence"
    density = -np.log((pixels + np.float32(1)) / np.float32(256))
    stained = density[density.sum(axis=1) > STAINED]
    if len(stained) < MIN_STAINED_SHARE * len(pixels):
        return None
    _, green, blue = stained.mean(axis=0).tolist()
    if blue > BROWN * green:
        return "its stain is brown, as in immunohistochemistry"
    return None
