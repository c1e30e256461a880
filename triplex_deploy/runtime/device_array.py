"""Define arrays that stay on a GPU between graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeviceArray(ABC):
    """A C-contiguous array in GPU memory: an input for another graph; ``numpy`` copies it back.

    A slice of the first axis shares its memory, which is freed with the last array that uses it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.pointer = pointer

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """Wait until the array is written, and return a copy in the CPU's memory."""

    @abstractmethod
    def _view(self, shape: tuple[int, ...], pointer: int) -> DeviceArray: ...

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return consecutive rows, without a copy."""
        begin, end, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("device arrays are sliced without a step")
        count = max(0, end - begin)
        row_bytes = self.nbytes // len(self) if len(self) else 0
        return self._view((count, *self.shape[1:]), self.pointer + begin * row_bytes)


Tensor = NDArray[Any] | DeviceArray
"""An input of a graph: in the CPU's memory or on a GPU."""
Tensors = Mapping[str, Tensor]
"""Tensors by name."""
