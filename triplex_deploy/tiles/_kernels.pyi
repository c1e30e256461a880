"""Declare the types of the native kernels in ``ext/_kernels.pyx``; callers check arguments."""

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]

def gather(
    segments: _Bytes,
    slots: _Ints,
    first_xy: _Ints,
    origin_xy: _Ints,
    limit_width: int,
    limit_height: int,
    out: _Bytes,
) -> None: ...
def neighbor_table(
    center_xy: _Ints, width: int, height: int, side: int, origin_xy: _Ints, mask: _Bytes
) -> None: ...
def apeg_table(rows: _Ints, cols: _Ints, order: _Ints, reach: int, table: _Ints) -> None: ...
def resample(
    block: _Bytes,
    row_start: _Ints,
    row_count: _Ints,
    row_weight: _Floats,
    col_start: _Ints,
    col_count: _Ints,
    col_weight: _Floats,
    line: _Floats,
    out: _Bytes,
) -> None: ...
