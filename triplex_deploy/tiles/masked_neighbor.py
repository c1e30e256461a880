"""Define what the tile encoder sees in place of a masked neighbor.

Prediction, training, the export reference, the parity gate and Triton all use this definition.
Attention hides masked neighbors, but models that average neighbor tokens see their feature
(docs/models.md, "Masked neighbors").
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import IMAGE_MEAN, TILE_PX

MEAN_COLOR: Final = tuple(round(255 * mean) for mean in IMAGE_MEAN)
"""RGB of every pixel, 0 to 255; close to zero once normalized."""


def mean_color_tile() -> NDArray[np.uint8]:
    """Return a tile (1, 224, 224, 3) of ``MEAN_COLOR``.

    Its feature from the tile encoder stands for every masked neighbor.
    """
    tile = np.empty((1, TILE_PX, TILE_PX, 3), np.uint8)
    tile[:] = MEAN_COLOR
    return tile
