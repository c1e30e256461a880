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

    _ahead: int = 0
    """Rows of the same memory before the first row."""
    _behind: int = 0
    """Rows of the same memory after the last row."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.pointer = pointer

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """Wait until the array is written, and return a copy in the CPU's memory."""

    def first_not_finite(self) -> int | None:
        """Return the first row that has NaN or infinity, None if there is none."""
        values = self.numpy()
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        return int(bad.argmax()) if bad.any() else None

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
        view = self._view((count, *self.shape[1:]), self.pointer + begin * row_bytes)
        view._ahead = self._ahead + begin
        view._behind = self._behind + len(self) - begin - count
        return view

    def window(self, n_rows: int) -> tuple[DeviceArray, int] | None:
        """Return ``n_rows`` rows of the same memory that hold these rows, and where these begin.

        Returns None if the memory has fewer rows. Rows outside this array may hold anything.
        """
        missing = n_rows - len(self)
        if not len(self) or not 0 <= missing <= self._ahead + self._behind:
            return None
        ahead = missing - min(missing, self._behind)
        row_bytes = self.nbytes // len(self)
        view = self._view((n_rows, *self.shape[1:]), self.pointer - ahead * row_bytes)
        view._ahead = self._ahead - ahead
        view._behind = self._behind - (missing - ahead)
        return view, ahead


Tensor = NDArray[Any] | DeviceArray
"""An input of a graph: in the CPU's memory or on a GPU."""
Tensors = Mapping[str, Tensor]
"""Tensors by name."""
