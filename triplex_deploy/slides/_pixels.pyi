"""Types of the native code in ``ext/_pixels.pyx``; arguments are checked by their callers."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]

def read_region(
    function: int,
    slide: int,
    argb: NDArray[np.uint32],
    x: int,
    y: int,
    level: int,
    rgb: _Bytes,
    r: int,
    g: int,
    b: int,
) -> None: ...
def ycbcr_to_rgb(pixels: _Bytes) -> None: ...
def jpeg_is_whole(data: bytes) -> bool: ...
