"""Copy arrays to a GPU on a stream of their own, while engines compute on other streams."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.locked_buffers import LockedBuffers
from triplex_deploy.runtime.tensorrt.memory import CudaArray, Event, Memory, MemoryPool

RING: Final = 3
"""Page-locked buffers: one is filled while another is copied, and one waits."""


@dataclass
class _Buffer:
    """Page-locked memory, and the copy that reads it."""

    locked: NDArray[np.uint8] | None = None
    copied: Event | None = None
    into: Memory | None = None
    """What the copy writes; it must not be reused before."""


class UploadLane:
    """A stream and a ring of page-locked buffers; several threads may use it."""

    def __init__(self, cuda: Cuda, pool: MemoryPool) -> None:
        self._cuda = cuda
        self._pool = pool
        self._stream: Any = cuda.stream()
        self._ring = deque(_Buffer() for _ in range(RING))
        self._lent: LockedBuffers | None = None
        self._in_place: deque[tuple[Event, object, Memory]] = deque()
        self._filling = threading.Lock()

    def upload(self, array: NDArray[Any]) -> CudaArray:
        """Queue the copy of ``array``; return an array on the GPU that becomes ready later.

        The context must be current. Raises ``DeviceMemoryError`` if memory is full.
        """
        with self._filling:
            if self._stream is None:
                raise BackendError("uploading: the session is closed; open the bundle again")
            if self._lent is not None and self._lent.owns(array):
                return self._from_where_it_is(array)
            buffer = self._free_buffer(array.nbytes)
            assert buffer.locked is not None
            locked = buffer.locked[: array.nbytes]
            np.copyto(locked.view(array.dtype).reshape(array.shape), array)
            buffer.into = self._pool.take(array.nbytes)
            self._cuda.driver.memcpy_htod_async(buffer.into.pointer, locked, self._stream)
            buffer.copied = self._pool.event(self._stream)
            return CudaArray(self._cuda, array.shape, array.dtype, buffer.into, buffer.copied)

    def lend(self, shape: tuple[int, ...]) -> LockedBuffers:
        """Return page-locked memory; what lies in it is uploaded without a copy on the host."""
        with self._filling:
            if self._lent is None or self._lent.shape != shape:
                if self._lent is not None:
                    with self._cuda.current():
                        self._lent.close()
                self._lent = LockedBuffers(self._cuda, shape)
            return self._lent

    def close(self) -> None:
        """Wait for the copies in progress, and free stream and buffers."""
        with self._filling:
            try:
                self._stream.synchronize()
            finally:
                self._ring.clear()
                self._in_place.clear()
                if self._lent is not None:
                    self._lent.close()
                self._lent = self._stream = None

    def _from_where_it_is(self, array: NDArray[Any]) -> CudaArray:
        """Queue the copy of page-locked ``array``, and hold it until that is done."""
        into = self._pool.take(array.nbytes)
        self._cuda.driver.memcpy_htod_async(into.pointer, array, self._stream)
        copied = self._pool.event(self._stream)
        self._in_place.append((copied, array, into))
        while len(self._in_place) > RING:
            self._in_place.popleft()[0].synchronize()
        return CudaArray(self._cuda, array.shape, array.dtype, into, copied)

    def _free_buffer(self, n_bytes: int) -> _Buffer:
        """Return the buffer that was used longest ago, when its copy is done."""
        buffer = self._ring[0]
        self._ring.rotate(-1)
        if buffer.copied is not None:
            buffer.copied.synchronize()
        buffer.copied = buffer.into = None
        if buffer.locked is None or len(buffer.locked) < n_bytes:
            buffer.locked = None  # free it first
            buffer.locked = self._cuda.page_locked(n_bytes)
        return buffer
