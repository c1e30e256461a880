"""Look at what a GPU has computed: copy it back, or find out on the GPU whether it is finite."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.tensorrt.cuda import Cuda, CudaArray, MemoryPool
from triplex_deploy.runtime.tensorrt.row_kernels import NO_ROW, RowKernels


class ResultLane:
    """A stream and page-locked memory for what comes back; several threads may use it."""

    def __init__(self, cuda: Cuda, pool: MemoryPool) -> None:
        """Make the stream; the context must be current."""
        self._cuda = cuda
        self._pool = pool
        self._stream: Any = cuda.stream()
        self._locked: NDArray[np.uint8] | None = None
        self._using = threading.Lock()

    @cached_property
    def kernels(self) -> RowKernels:
        """Return the kernels; they are loaded at the first use, with the context current."""
        return RowKernels(self._cuda)

    def download(self, array: CudaArray) -> NDArray[Any]:
        """Return a copy of ``array``; the context must be current."""
        with self._using:
            self._wait_for(array)
            locked = self._copied(array.pointer, array.nbytes)
            return locked.view(array.dtype).reshape(array.shape).copy()

    def first_not_finite(self, array: CudaArray) -> int | None:
        """Return the first row that has NaN or infinity, None if there is none.

        Only this number is copied back. The context must be current.
        """
        if not array.nbytes:
            return None
        with self._using:
            self._wait_for(array)
            first = self._pool.take(4)
            start = self._locked_bytes(4)
            start.view(np.int32)[0] = NO_ROW
            self._cuda.driver.memcpy_htod_async(first.pointer, start, self._stream)
            words = array.nbytes // 4 // len(array)
            self.kernels.find_not_finite(
                array.pointer, first.pointer, len(array), words, self._stream
            )
            row = int(self._copied(first.pointer, 4).view(np.int32)[0])
            return None if row == NO_ROW else row

    def close(self) -> None:
        """Free the stream and the memory; the context must be current."""
        with self._using:
            try:
                self._stream.synchronize()
            finally:
                self._locked = None
                self._stream = None
                self.__dict__.pop("kernels", None)

    def _wait_for(self, array: CudaArray) -> None:
        if array.ready is not None:
            array.ready.delay(self._stream)

    def _copied(self, pointer: int, n_bytes: int) -> NDArray[np.uint8]:
        locked = self._locked_bytes(n_bytes)
        self._cuda.driver.memcpy_dtoh_async(locked, pointer, self._stream)
        self._stream.synchronize()
        return locked

    def _locked_bytes(self, n_bytes: int) -> NDArray[np.uint8]:
        if self._locked is None or len(self._locked) < n_bytes:
            self._locked = None  # free it first
            self._locked = self._cuda.page_locked(n_bytes)
        return self._locked[:n_bytes]
