"""Lend page-locked memory into which tiles are cut, so that a GPU copies them from there."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.session import DeviceMemoryError
from triplex_deploy.runtime.tensorrt.cuda import Cuda


class LockedBuffers:
    """Lends arrays of one shape, and takes their memory back when the borrower drops them.

    Any thread may borrow and drop. The memory is kept until ``close``, where the context is
    current: elsewhere CUDA could free nothing.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...]) -> None:
        """Lend arrays of ``shape`` = (rows, ...), uint8."""
        self.shape = shape
        self._cuda = cuda
        self._all: list[NDArray[np.uint8]] = []
        self._idle: deque[NDArray[np.uint8]] = deque()  # the garbage collector appends here
        self._allocating = threading.Lock()

    def take(self, length: int) -> NDArray[np.uint8]:
        """Return an array with ``length`` rows of undefined content.

        Its memory is not page-locked if there is no more of that.
        """
        try:
            memory = self._idle.popleft()
        except IndexError:
            try:
                memory = self._allocate()
            except DeviceMemoryError:
                return np.empty((length, *self.shape[1:]), np.uint8)
        loan = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(loan, self._idle.append, memory).atexit = False
        return loan.reshape(self.shape)[:length]

    def owns(self, array: NDArray[np.uint8]) -> bool:
        """Return whether a contiguous array lies in page-locked memory of these buffers."""
        begin = array.ctypes.data
        return any(
            block.ctypes.data <= begin and begin + array.nbytes <= block.ctypes.data + block.nbytes
            for block in self._all
        )

    def close(self) -> None:
        """Free the memory that is not lent; the context must be current."""
        self._idle.clear()
        self._all.clear()

    def _allocate(self) -> NDArray[np.uint8]:
        with self._allocating, self._cuda.current():
            memory = self._cuda.page_locked(math.prod(self.shape))
            self._all.append(memory)
            return memory
