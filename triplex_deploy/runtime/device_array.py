"""Arrays that stay on a GPU between graphs, and results that are still being computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeviceArray(ABC):
    """A C-contiguous array in GPU memory; give it to another graph, or copy it back by ``numpy``.

    A slice of its first axis shares the memory. The memory lives as long as an array on it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.pointer = pointer

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """A copy in the CPU's memory, once the work that makes it is done."""

    @abstractmethod
    def _view(self, shape: tuple[int, ...], pointer: int) -> DeviceArray: ...

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Consecutive rows, without a copy."""
        begin, end, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("device arrays are sliced without a step")
        count = max(0, end - begin)
        row_bytes = self.nbytes // len(self) if len(self) else 0
        return self._view((count, *self.shape[1:]), self.pointer + begin * row_bytes)


Tensor = NDArray[Any] | DeviceArray
Tensors = Mapping[str, Tensor]


class Pending:
    """Outputs of a graph that may still run; ``result`` waits for them, and gives them once."""

    def __init__(self, collect: Callable[[], dict[str, Any]]) -> None:
        self._collect: Callable[[], dict[str, Any]] | None = collect

    def result(self) -> dict[str, Any]:
        collect, self._collect = self._collect, None
        assert collect is not None, "a result is taken once"
        return collect()
