"""Look at what a GPU has computed: copy it back, or find out on the GPU whether it is finite."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import CudaArray, MemoryPool
from triplex_deploy.runtime.tensorrt.row_kernels import NO_ROW, RowKernels


class ResultLane:
    """Streams with page-locked memory for what comes back; several threads may use it.

    Each call has a stream of its own, so that none waits for the array of another.
    """

    def __init__(self, cuda: Cuda, pool: MemoryPool) -> None:
        self._cuda = cuda
        self._pool = pool
        self._idle: deque[_Lane] = deque()
        self._kernels: RowKernels | None = None
        self._loading = threading.Lock()
        self._is_closed = False

    @property
    def kernels(self) -> RowKernels:
        """Return the kernels; they are loaded at the first use, with the context current."""
        with self._loading:
            if self._kernels is None:
                self._kernels = RowKernels(self._cuda)
            return self._kernels

    def download(self, array: CudaArray) -> NDArray[Any]:
        """Return a copy of ``array``; the context must be current."""
        with self._lane(array) as lane:
            copied = lane.copied(array.pointer, array.nbytes)
            return copied.view(array.dtype).reshape(array.shape).copy()

    def first_not_finite(self, array: CudaArray) -> int | None:
        """Return the first row that has NaN or infinity, None if there is none.

        Only this number is copied back. The context must be current.
        """
        if not array.nbytes:
            return None
        kernels = self.kernels
        with self._lane(array) as lane:
            first = self._pool.take(4)
            lane.bytes(4).view(np.int32)[0] = NO_ROW
            self._cuda.driver.memcpy_htod_async(first.pointer, lane.bytes(4), lane.stream)
            words = array.nbytes // 4 // len(array)
            kernels.find_not_finite(array.pointer, first.pointer, len(array), words, lane.stream)
            row = int(lane.copied(first.pointer, 4).view(np.int32)[0])
            return None if row == NO_ROW else row

    def close(self) -> None:
        """Free the streams and the memory; the context must be current."""
        self._is_closed = True
        self._idle.clear()
        self._kernels = None

    @contextmanager
    def _lane(self, array: CudaArray) -> Iterator[_Lane]:
        """Yield a lane that waits for ``array``; it is idle again when its work is done."""
        if self._is_closed:
            raise BackendError("looking at results: the session is closed; open the bundle again")
        try:
            lane = self._idle.popleft()
        except IndexError:
            lane = _Lane(self._cuda)
        if array.ready is not None:
            array.ready.delay(lane.stream)
        yield lane
        if not self._is_closed:
            self._idle.append(lane)


class _Lane:
    """A stream, and page-locked memory that grows; one thread uses it at a time."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.stream: Any = cuda.stream()
        self._locked: NDArray[np.uint8] | None = None

    def bytes(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked memory, the same as before unless that is too small."""
        if self._locked is None or len(self._locked) < n_bytes:
            self._locked = None  # free it first
            self._locked = self._cuda.page_locked(n_bytes)
        return self._locked[:n_bytes]

    def copied(self, pointer: int, n_bytes: int) -> NDArray[np.uint8]:
        """Wait for all work of the stream, and return what is then at ``pointer``."""
        locked = self.bytes(n_bytes)
        self._cuda.driver.memcpy_dtoh_async(locked, pointer, self.stream)
        self.stream.synchronize()
        return locked
