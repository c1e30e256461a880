"""Keep rows in a GPU's memory, such as the features of all tiles, and gather them there."""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.device_array import DeviceArray, Tensor
from triplex_deploy.runtime.row_table import LARGEST_PART, RowTable
from triplex_deploy.runtime.session import DeviceMemoryError, LostDeviceError
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import CudaArray, Event, MemoryPool
from triplex_deploy.runtime.tensorrt.results import ResultLane
from triplex_deploy.runtime.tensorrt.row_kernels import RowKernels
from triplex_deploy.runtime.tensorrt.upload import UploadLane

WORD: Final = 4
"""Bytes of a word."""
IN_PROGRESS: Final = 8
"""Copies that may be queued before the first is awaited; it is done by then."""


class CudaRowTable(RowTable):
    """Rows in pool memory, with a stream of their own; open it with ``open_row_table``."""

    def __init__(
        self, cuda: Cuda, pool: MemoryPool, kernels: RowKernels, shape: tuple[int, ...]
    ) -> None:
        """Take the memory; the context must be current."""
        super().__init__(shape)
        self._cuda = cuda
        self._pool = pool
        self._row_bytes = math.prod(shape[1:]) * WORD
        self._memory = pool.take(shape[0] * self._row_bytes)
        self._kernels = kernels
        self._stream: Any = cuda.stream()
        self._uploads = UploadLane(cuda, pool)
        self._working: deque[tuple[Event, tuple[object, ...]]] = deque()
        self._lock = threading.Lock()

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        self.check_rows(rows)
        if not rows.size:
            return
        with self._lock, self._cuda.current():
            source = self._on_device(values)
            index = self._index(rows)
            self._kernels.scatter(
                self._memory.pointer,
                source.pointer,
                index.pointer,
                len(rows),
                self._row_bytes // WORD,
                self._stream,
            )
            self._keep(source, index)

    def take(self, rows: NDArray[Any], room: int = 0) -> DeviceArray:
        self.check_rows(rows)
        shape = (*rows.shape, *self.shape[1:])
        per_call = rows.size // max(1, len(rows))
        n_rows = max(len(rows), room)
        with self._lock, self._cuda.current():
            memory = self._pool.take(n_rows * per_call * self._row_bytes)
            index = self._index(rows.reshape(-1))
            self._kernels.gather(
                memory.pointer,
                self._memory.pointer,
                index.pointer,
                rows.size,
                self._row_bytes // WORD,
                self._stream,
            )
            ready = self._keep(memory, index)
        whole = (n_rows, *shape[1:])
        found = CudaArray(self._cuda, whole, np.dtype(np.float32), memory, ready)
        return found[: len(rows)]

    def close(self) -> None:
        with suppress(LostDeviceError), self._lock, self._cuda.current():
            try:
                self._stream.synchronize()
                self._uploads.close()
            finally:
                self._working.clear()
                self._stream = None

    def _on_device(self, values: Tensor) -> CudaArray:
        if not isinstance(values, CudaArray):
            values = self._uploads.upload(np.ascontiguousarray(values, np.float32))
        if values.ready is not None:
            values.ready.delay(self._stream)
        return values

    def _index(self, rows: NDArray[Any]) -> CudaArray:
        index = self._uploads.upload(np.ascontiguousarray(rows, np.int32))
        assert index.ready is not None
        index.ready.delay(self._stream)
        return index

    def _keep(self, *used: object) -> Event:
        """Hold what the queued work uses until it is done; return the event of its end."""
        done = self._pool.event(self._stream)
        self._working.append((done, used))
        while len(self._working) > IN_PROGRESS:
            self._working.popleft()[0].synchronize()
        return done


def open_row_table(
    cuda: Cuda, pool: MemoryPool, results: ResultLane, shape: tuple[int, ...]
) -> CudaRowTable | None:
    """Return a table, or None if memory is too short for it; the context must be current."""
    n_bytes = math.prod(shape) * WORD
    free, _ = cuda.driver.mem_get_info()
    if n_bytes > LARGEST_PART * pool.room(free):
        return None
    try:
        return CudaRowTable(cuda, pool, results.kernels, shape)
    except DeviceMemoryError:
        return None
