"""Lend memory of a GPU, and hold arrays in it.

Device memory and events are reused. Any thread may drop what it has taken.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.session import DeviceMemoryError
from triplex_deploy.runtime.tensorrt.cuda import Cuda

ALIGNMENT: Final = 256
"""TensorRT needs tensor addresses that are multiples of this number of bytes."""


class Memory:
    """A piece of GPU memory; it returns to its pool when this object is deleted."""

    def __init__(self, pointer: int, n_bytes: int, pool: MemoryPool) -> None:
        self.pointer = pointer
        self.n_bytes = n_bytes
        self.pool = pool


class Event:
    """Occurs when work on a stream is done; it returns to its pool when this object is deleted."""

    def __init__(self, holder: list[Any]) -> None:
        """Wrap the event in ``holder``; the pool takes it out before this object is gone."""
        self._holder = holder

    def synchronize(self) -> None:
        """Wait until the event has occurred; the context must be current."""
        self._holder[0].synchronize()

    def delay(self, stream: Any) -> None:
        """Let later work of ``stream`` wait for the event; the context must be current."""
        stream.wait_for_event(self._holder[0])


class Results(Protocol):
    """Looks at arrays of a pool; see ``results.ResultLane``."""

    def download(self, array: CudaArray) -> NDArray[Any]:
        """Return a copy of ``array`` in the CPU's memory."""

    def first_not_finite(self, array: CudaArray) -> int | None:
        """Return the first row that has NaN or infinity, None if there is none."""

    def close(self) -> None:
        """Free what it holds."""


class MemoryBudget:
    """Counts the device memory of the pools that share it; several threads may use it."""

    def __init__(self, most_bytes: int | None = None) -> None:
        """Allow ``most_bytes``; None sets no limit."""
        self.most_bytes = most_bytes
        self.pools: weakref.WeakSet[MemoryPool] = weakref.WeakSet()
        self._used_bytes = 0
        self._changing = threading.Lock()

    def take(self, n_bytes: int) -> bool:
        """Count ``n_bytes`` and return True, or return False if that is beyond the limit."""
        with self._changing:
            wanted = self._used_bytes + n_bytes
            if self.most_bytes is not None and wanted > self.most_bytes:
                return False
            self._used_bytes = wanted
            return True

    def left(self, free_bytes: int) -> int:
        """Return how much of ``free_bytes`` may still be taken."""
        with self._changing:
            if self.most_bytes is None:
                return free_bytes
            return max(0, min(free_bytes, self.most_bytes - self._used_bytes))

    def give_back(self, n_bytes: int) -> None:
        """Count ``n_bytes`` less."""
        with self._changing:
            self._used_bytes -= n_bytes


class MemoryPool:
    """Reuses device memory and events; the context must be current in every method.

    Any thread may delete what it has taken, also one in which no context is current: CUDA could
    free nothing there.
    """

    def __init__(self, cuda: Cuda, budget: MemoryBudget | None = None) -> None:
        self._cuda = cuda
        self._budget = budget or MemoryBudget()
        self._budget.pools.add(self)
        self._idle: dict[int, list[Any]] = {}
        self._idle_events: deque[Any] = deque()
        self._returned: deque[tuple[int, Any]] = deque()  # the garbage collector appends here
        self._changing = threading.Lock()
        self._is_closed = False
        self.results: Results | None = None

    def take(self, n_bytes: int) -> Memory:
        """Return at least ``n_bytes``, aligned; raises ``DeviceMemoryError`` if memory is full."""
        size = _rounded(n_bytes)
        with self._changing:
            self._collect()
            allocations = self._idle.get(size)
            allocation = allocations.pop() if allocations else self._allocate(size)
        memory = Memory(int(allocation), size, self)
        weakref.finalize(memory, self._give_back, size, allocation).atexit = False
        return memory

    def room(self, free_bytes: int) -> int:
        """Return how many of the GPU's free bytes this pool may still take."""
        return self._budget.left(free_bytes)

    def event(self, stream: Any) -> Event:
        """Return an event that occurs when all work queued so far on ``stream`` is done."""
        try:
            raw = self._idle_events.popleft()
        except IndexError:
            raw = self._cuda.driver.Event(self._cuda.driver.event_flags.DISABLE_TIMING)
        raw.record(stream)
        holder = [raw]
        event = Event(holder)
        weakref.finalize(event, self._give_back_event, holder).atexit = False
        return event

    def close(self) -> None:
        """Free what is idle; what is in use is freed when its last user drops it."""
        self._is_closed = True
        results, self.results = self.results, None
        if results is not None:
            results.close()
        with self._changing:
            self._free_idle()
        self._idle_events.clear()

    def offer_idle(self) -> None:
        """Free what is idle for another pool, unless this pool is in use at the moment."""
        if self._changing.acquire(blocking=False):
            try:
                self._free_idle()
            finally:
                self._changing.release()

    def _give_back(self, size: int, allocation: Any) -> None:
        """Take an allocation back, in whichever thread the garbage collector runs."""
        self._returned.append((size, allocation))
        if self._is_closed:
            with suppress(BackendError), self._cuda.current():
                while self._returned:
                    self._free(*self._returned.popleft())

    def _give_back_event(self, holder: list[Any]) -> None:
        """Take the event in ``holder`` back; the list lets it go while the context is current."""
        self._idle_events.append(holder.pop())
        if self._is_closed:
            with suppress(BackendError), self._cuda.current():
                self._idle_events.clear()

    def _free_idle(self) -> None:
        self._collect()
        for size, allocations in self._idle.items():
            for allocation in allocations:
                self._free(size, allocation)
        self._idle.clear()

    def _free(self, size: int, allocation: Any) -> None:
        allocation.free()
        self._budget.give_back(size)

    def _collect(self) -> None:
        while self._returned:
            size, allocation = self._returned.popleft()
            self._idle.setdefault(size, []).append(allocation)

    def _allocate(self, size: int) -> Any:
        driver = self._cuda.driver
        try:
            return self._within_budget(size)
        except (driver.MemoryError, DeviceMemoryError):
            self._free_idle()
            for pool in list(self._budget.pools):
                pool.offer_idle()
        try:
            return self._within_budget(size)
        except driver.MemoryError as error:
            free, total = driver.mem_get_info()
            raise DeviceMemoryError(
                f"{self._cuda.name}: no {size / 1e6:.0f} MB left ({free / 1e6:.0f} of "
                f"{total / 1e6:.0f} MB free); lower --batch-size"
            ) from error

    def _within_budget(self, size: int) -> Any:
        if not self._budget.take(size):
            raise DeviceMemoryError(
                f"{self._cuda.name}: {size / 1e6:.0f} MB more are beyond --gpu-memory-gb; "
                "raise it, or lower --batch-size"
            )
        try:
            return self._cuda.driver.mem_alloc(size)
        except BaseException:
            self._budget.give_back(size)
            raise


class CudaArray(DeviceArray):
    """An array in pool memory; the event ``ready`` occurs when the array has been written."""

    def __init__(
        self,
        cuda: Cuda,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        memory: Memory,
        ready: Event | None,
        pointer: int | None = None,
    ) -> None:
        super().__init__(shape, dtype, memory.pointer if pointer is None else pointer)
        self._cuda = cuda
        self.memory = memory
        self.ready = ready

    def numpy(self) -> NDArray[Any]:
        with self._cuda.current():
            if self._results is not None:
                return self._results.download(self)
            array = np.empty(self.shape, self.dtype)
            if self.ready is not None:
                self.ready.synchronize()
            self._cuda.driver.memcpy_dtoh(array, self.pointer)
        return array

    def first_not_finite(self) -> int | None:
        if self._results is None or self.dtype != np.float32:
            return super().first_not_finite()
        with self._cuda.current():
            return self._results.first_not_finite(self)

    @property
    def _results(self) -> Results | None:
        return self.memory.pool.results

    def _view(self, shape: tuple[int, ...], pointer: int) -> CudaArray:
        return CudaArray(self._cuda, shape, self.dtype, self.memory, self.ready, pointer)


def _rounded(n_bytes: int) -> int:
    """Round up to one of eight sizes per power of two, so similar batches reuse memory."""
    step = max(ALIGNMENT, 1 << max(0, n_bytes.bit_length() - 4))
    return max(ALIGNMENT, -(-n_bytes // step) * step)
