"""A stand-in GPU: the driver of ``stand_in_driver.c``, and the names of pycuda in front of it.

``StandInGpu`` builds the library with the C compiler into the tests' cache. Its ``driver`` has the
names of ``pycuda.driver`` and pycuda's rules for threads: what is dropped while its context is not
current is not freed, and warns.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.shared_cache import shared
from triplex_deploy.runtime.tensorrt.cuda import Cuda

SOURCE = Path(__file__).with_name("stand_in_driver.c")
FILE = "stand_in_driver.so"
"""Its name must not be libcuda's: the package would find the driver of a GPU in this process."""
KINDS = ("htod", "dtoh", "dtod", "compute", "wait")
RUNNING, PAUSED, PAUSED_UNTIL_WAIT = range(3)
PATIENCE_S = 60.0
"""A test fails that waits longer than this; what passes never waits."""
_OUT_OF_MEMORY = 2
_LAUNCH_ERRORS = (701, 702, 703, 719)
_POINTER = ctypes.c_void_p


def library_path() -> Path:
    """Return the built library, in a folder that holds nothing else."""

    def make(folder: Path) -> None:
        warn = ("-Wall", "-Wextra", "-Werror")
        command = ["cc", "-O1", *warn, "-shared", "-fPIC", "-pthread"]
        subprocess.run([*command, "-o", str(folder / FILE), str(SOURCE)], check=True)

    return shared("stand-in-gpu", ("../tests/gpu/stand_in_driver.c",), make) / FILE


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(library_path()))
    for name in ("used", "peak", "pageable_copies"):
        getattr(library, f"standin_{name}").restype = ctypes.c_size_t
    return library


class StandInGpu:
    """A GPU of the stand-in driver; a new one starts empty. There is one at a time."""

    def __init__(
        self,
        name: str = "NVIDIA Test 1",
        total_bytes: int = 1 << 30,
        compute_capability: tuple[int, int] = (9, 0),
        driver: Any = None,
    ) -> None:
        self.name = name
        self.library = _library()
        self.library.standin_reset(ctypes.c_size_t(total_bytes), name.encode(), *compute_capability)
        self.driver = driver or _Driver(self.library, self).names()
        self._calls: dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def cuda(self) -> Cuda:
        """Return the GPU as the package opens it."""
        device = self.driver.Device(0)
        return Cuda(self.driver, device, device.retain_primary_context())

    @property
    def used_bytes(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self.library.standin_used())

    @property
    def pageable_copies(self) -> int:
        """Copies from or into memory that is not page-locked, which stop the calling thread."""
        return int(self.library.standin_pageable_copies())

    @property
    def live_streams(self) -> int:
        """Streams that are not destroyed."""
        return int(self.library.standin_live(0))

    @property
    def live_events(self) -> int:
        """Events that are not destroyed."""
        return int(self.library.standin_live(1))

    @property
    def live_locked(self) -> int:
        """Blocks of page-locked memory that are not freed."""
        return int(self.library.standin_live(2))

    @property
    def records(self) -> list[SimpleNamespace]:
        """Everything since ``clear``: ``phase`` (queue, begin, end), ``kind``, stream, bytes."""
        text = ctypes.create_string_buffer(128)
        found: list[SimpleNamespace] = []
        while self.library.standin_entry(len(found), text, len(text)):
            phase, kind, stream, number, size = text.value.decode().split()
            found.append(
                SimpleNamespace(
                    phase=phase,
                    kind=kind,
                    stream=int(stream),
                    number=int(number),
                    n_bytes=int(size),
                )
            )
        return found

    @property
    def log(self) -> list[str]:
        """The records as "phase kind"."""
        return [f"{record.phase} {record.kind}" for record in self.records]

    def clear(self) -> None:
        """Forget the records."""
        self.library.standin_clear_log()

    def pause(self) -> None:
        """Keep every stream from beginning work, until ``resume``."""
        self.library.standin_set_mode(PAUSED)

    def pause_until_wait(self) -> None:
        """Keep every stream from beginning work, until some thread waits for it."""
        self.library.standin_set_mode(PAUSED_UNTIL_WAIT)

    def resume(self) -> None:
        """Let the streams work."""
        self.library.standin_set_mode(RUNNING)

    def await_log(self, line: str, count: int) -> None:
        """Return when the log has ``count`` of ``line``; fail if that never happens."""
        end = time.monotonic() + PATIENCE_S
        while self.log.count(line) < count:
            assert time.monotonic() < end, f"{self.log.count(line)} of {count} {line!r}"
            time.sleep(0.005)

    def set_total(self, n_bytes: int) -> None:
        """Change the size of the memory."""
        self.library.standin_set_total(ctypes.c_size_t(n_bytes))

    def fail_allocations(self, count: int) -> None:
        """Refuse the next ``count`` allocations, on the device or page-locked."""
        self.library.standin_fail_allocations(count)

    def slow_copies(self, microseconds: int) -> None:
        """Let each asynchronous copy take at least this long."""
        self.library.standin_slow_copies(microseconds)

    def lose_at(self, kind: str, code: int) -> None:
        """Lose the context with CUDA error ``code`` when a stream begins the next ``kind``."""
        self.library.standin_lose_at(KINDS.index(kind), code)

    def view(self, address: int, n_bytes: int) -> np.ndarray:
        """Return the bytes at an address; memory that is not allocated is an error."""
        if not self.library.standin_is_allocated(
            ctypes.c_uint64(address), ctypes.c_size_t(n_bytes)
        ):
            self.library.standin_fault(700)
            raise RuntimeError(f"illegal memory access at {address}")
        block = (ctypes.c_uint8 * n_bytes).from_address(address)
        return np.ctypeslib.as_array(block)

    def launch(self, stream_handle: int, compute: Callable[[], None]) -> int:
        """Queue ``compute`` on a stream; an error of it loses the context. Returns CUDA's code."""
        number = next(self._numbers)

        def call(_: Any) -> None:
            try:
                compute()
            except Exception:  # noqa: BLE001 - a kernel that fails
                self.library.standin_fault(719)
            finally:
                self._calls.pop(number, None)

        self._calls[number] = ctypes.CFUNCTYPE(None, _POINTER)(call)
        code: int = self.library.cuLaunchHostFunc(
            _POINTER(stream_handle), self._calls[number], None
        )
        return code

    def require_context(self) -> None:
        """Fail unless a context is current in this thread, as every call of CUDA needs."""
        current = _POINTER()
        self.library.cuCtxGetCurrent(ctypes.byref(current))
        assert current.value, "CUDA called without a current context"


class _Driver:
    """Makes the names of ``pycuda.driver`` from the calls of a library."""

    def __init__(self, library: Any, gpu: StandInGpu) -> None:
        self.library = library
        self.gpu = gpu
        self.stack = threading.local()
        self.Error = type("Error", (Exception,), {})
        self.MemoryError = type("MemoryError", (self.Error,), {})
        self.LogicError = type("LogicError", (self.Error,), {})
        self.LaunchError = type("LaunchError", (self.Error,), {})
        self.RuntimeError = type("RuntimeError", (self.Error,), {})

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if not code:
            return
        kind = self.LogicError
        if code == _OUT_OF_MEMORY:
            kind = self.MemoryError
        elif code in _LAUNCH_ERRORS:
            kind = self.LaunchError
        text = ctypes.c_char_p()
        self.library.cuGetErrorString(code, ctypes.byref(text))
        raise kind(f"{name.partition('_')[0]} failed: {(text.value or b'').decode()}")

    @property
    def contexts(self) -> list[_Context]:
        """The contexts that are current in this thread, the last is in use."""
        if not hasattr(self.stack, "contexts"):
            self.stack.contexts = []
        contexts: list[_Context] = self.stack.contexts
        return contexts

    def names(self) -> SimpleNamespace:
        return SimpleNamespace(
            Error=self.Error,
            MemoryError=self.MemoryError,
            LogicError=self.LogicError,
            LaunchError=self.LaunchError,
            RuntimeError=self.RuntimeError,
            event_flags=SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2),
            init=lambda: self.call("cuInit", 0),
            Device=type("Device", (_Device,), {"driver": self}),
            Event=lambda flags=0: _Event(self, flags),
            Stream=lambda flags=0: _Stream(self, flags),
            mem_alloc=lambda n_bytes: _Allocation(self, n_bytes),
            mem_get_info=self.mem_get_info,
            pagelocked_empty=self.pagelocked_empty,
            memcpy_htod_async=self.htod_async,
            memcpy_dtoh_async=self.dtoh_async,
            memcpy_dtod_async=self.dtod_async,
            memcpy_dtoh=self.dtoh,
            module_from_buffer=self.module_from_buffer,
        )

    def module_from_buffer(self, ptx: bytes) -> Any:
        """Return a module whose kernels do what those of ``row_kernels`` should do."""
        assert self.contexts, "cuModuleLoadDataEx without a current context"
        return SimpleNamespace(get_function=lambda name: _Kernel(self, name, ptx.decode()))

    def mem_get_info(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def pagelocked_empty(self, shape: Any, dtype: Any) -> np.ndarray:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        owner = _Locked(self, n_bytes)
        return np.asarray(owner).view(dtype).reshape(shape)

    def htod_async(self, into: Any, host: np.ndarray, stream: _Stream) -> None:
        size = ctypes.c_size_t(host.nbytes)
        where = ctypes.c_uint64(int(into))
        self.call("cuMemcpyHtoDAsync_v2", where, _address(host), size, stream.pointer)

    def dtoh_async(self, host: np.ndarray, source: Any, stream: _Stream) -> None:
        size = ctypes.c_size_t(host.nbytes)
        where = ctypes.c_uint64(int(source))
        self.call("cuMemcpyDtoHAsync_v2", _address(host), where, size, stream.pointer)

    def dtod_async(self, into: Any, source: Any, n_bytes: int, stream: _Stream) -> None:
        where = (ctypes.c_uint64(int(into)), ctypes.c_uint64(int(source)))
        self.call("cuMemcpyDtoDAsync_v2", *where, ctypes.c_size_t(n_bytes), stream.pointer)

    def dtoh(self, host: np.ndarray, source: Any) -> None:
        where = ctypes.c_uint64(int(source))
        self.call("cuMemcpyDtoH_v2", _address(host), where, ctypes.c_size_t(host.nbytes))


class _Kernel:
    """A kernel of ``row_kernels`` as NumPy computes it."""

    def __init__(self, driver: _Driver, name: str, ptx: str) -> None:
        assert f".visible .entry {name}(" in ptx
        self.driver = driver
        self.name = name

    def prepare(self, types: str) -> None:
        """Take the types of the arguments."""
        self.types = types

    def prepared_async_call(self, grid: Any, block: Any, stream: _Stream, *arguments: int) -> None:
        assert len(arguments) == len(self.types)
        assert len(grid) == 2
        assert len(block) == 3
        compute = getattr(self, f"_{self.name}")
        code = self.driver.gpu.launch(stream.handle, lambda: compute(*arguments))
        if code:
            raise self.driver.LaunchError(f"cuLaunchKernel failed: {code}")

    def _rows(self, address: int, rows: np.ndarray, words: int) -> np.ndarray:
        n_rows = int(rows.max()) + 1
        return self.driver.gpu.view(address, n_rows * words * 4).view(np.uint32).reshape(-1, words)

    def _index(self, address: int, n_rows: int) -> np.ndarray:
        return self.driver.gpu.view(address, n_rows * 4).view(np.int32)

    def _gather_rows(self, into: int, source: int, rows: int, n_rows: int, words: int) -> None:
        index = self._index(rows, n_rows)
        self._rows(into, np.arange(n_rows), words)[:] = self._rows(source, index, words)[index]

    def _scatter_rows(self, into: int, source: int, rows: int, n_rows: int, words: int) -> None:
        index = self._index(rows, n_rows)
        self._rows(into, index, words)[index] = self._rows(source, np.arange(n_rows), words)

    def _find_not_finite(self, values: int, first: int, n_rows: int, words: int) -> None:
        bits = self._rows(values, np.arange(n_rows), words)
        bad = np.flatnonzero(~np.isfinite(bits.view(np.float32)).all(axis=1))
        row = self._index(first, 1)
        row[0] = min([int(row[0]), *bad.tolist()])


class _Context:
    def __init__(self, driver: _Driver, pointer: Any, device: int) -> None:
        self.driver = driver
        self.pointer = pointer
        self.device = device
        self.thread = threading.get_ident()

    def push(self) -> None:
        self.driver.call("cuCtxPushCurrent_v2", self.pointer)
        self.driver.contexts.append(self)

    def pop(self) -> None:
        self.driver.call("cuCtxPopCurrent_v2", None)
        self.driver.contexts.pop()

    def detach(self) -> None:
        self.driver.call("cuDevicePrimaryCtxRelease_v2", self.device)


class _Device:
    driver: _Driver

    def __init__(self, index: int) -> None:
        self.index = ctypes.c_int()
        self.driver.call("cuDeviceGet", ctypes.byref(self.index), index)

    @classmethod
    def count(cls) -> int:
        number = ctypes.c_int()
        cls.driver.call("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    def name(self) -> str:
        text = ctypes.create_string_buffer(100)
        self.driver.call("cuDeviceGetName", text, len(text), self.index)
        return text.value.decode()

    def compute_capability(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        pointers = (ctypes.byref(major), ctypes.byref(minor))
        self.driver.call("cuDeviceComputeCapability", *pointers, self.index)
        return major.value, minor.value

    def retain_primary_context(self) -> _Context:
        pointer = _POINTER()
        self.driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(pointer), self.index)
        return _Context(self.driver, pointer, self.index.value)


class _Owned:
    """Something of a context; pycuda frees it only where that context can be made current."""

    what: str
    free_with: str

    def __init__(self, driver: _Driver, make_with: str, *arguments: Any) -> None:
        self.driver = driver
        self.pointer: Any = None
        self.number = _generation(driver.library)
        pointer = _POINTER()
        driver.call(make_with, ctypes.byref(pointer), *arguments)
        self.pointer = pointer
        self.context = driver.contexts[-1]

    def free(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer is None or self.number != _generation(self.driver.library):
            return
        contexts = self.driver.contexts
        if contexts and contexts[-1] is self.context:
            getattr(self.driver.library, self.free_with)(pointer)
        elif threading.get_ident() == self.context.thread:
            self.context.push()
            getattr(self.driver.library, self.free_with)(pointer)
            self.context.pop()
        else:
            text = f"{self.what} in out-of-thread context could not be cleaned up"
            warnings.warn(text, UserWarning, stacklevel=2)

    def __del__(self) -> None:
        self.free()


class _Allocation(_Owned):
    what, free_with = "device_allocation", "cuMemFree_v2"

    def __init__(self, driver: _Driver, n_bytes: int) -> None:
        super().__init__(driver, "cuMemAlloc_v2", ctypes.c_size_t(n_bytes))
        self.address = int(self.pointer.value)

    def __int__(self) -> int:
        return self.address


class _Locked(_Owned):
    what, free_with = "pagelocked_host_allocation", "cuMemFreeHost"

    def __init__(self, driver: _Driver, n_bytes: int) -> None:
        super().__init__(driver, "cuMemHostAlloc", ctypes.c_size_t(n_bytes), 0)
        self.__array_interface__: dict[str, Any] = {
            "shape": (n_bytes,),
            "typestr": "|u1",
            "data": (self.pointer.value, False),
            "version": 3,
        }


class _Stream(_Owned):
    what, free_with = "stream", "cuStreamDestroy_v2"

    def __init__(self, driver: _Driver, flags: int) -> None:
        super().__init__(driver, "cuStreamCreate", flags)
        self.handle = int(self.pointer.value)

    def synchronize(self) -> None:
        self.driver.call("cuStreamSynchronize", self.pointer)

    def wait_for_event(self, event: _Event) -> None:
        self.driver.call("cuStreamWaitEvent", self.pointer, event.pointer, 0)


class _Event(_Owned):
    what, free_with = "event", "cuEventDestroy_v2"

    def __init__(self, driver: _Driver, flags: int) -> None:
        super().__init__(driver, "cuEventCreate", flags)

    def record(self, stream: _Stream) -> _Event:
        self.driver.call("cuEventRecord", self.pointer, stream.pointer)
        return self

    def synchronize(self) -> None:
        self.driver.call("cuEventSynchronize", self.pointer)


def _address(host: np.ndarray) -> Any:
    return _POINTER(host.ctypes.data)


def _generation(library: Any) -> int:
    return int(library.standin_generation())
