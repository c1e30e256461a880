"""Use a GPU through pycuda: its primary context, page-locked memory, device memory and streams.

PyTorch and ONNX Runtime use the same primary context. It is retained once per process and is
current only during a call, so that threads and libraries can share it.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command
from triplex_deploy.runtime.failures import failure, reason_of
from triplex_deploy.runtime.session import DeviceMemoryError

_REMEDY: Final = "run `triplex-deploy doctor`, or use --backend onnxruntime"
NON_BLOCKING: Final = 1
"""CUDA's ``CU_STREAM_NON_BLOCKING``, which pycuda does not name."""


class Cuda:
    """A GPU with its primary context retained; ``open_cuda`` returns it."""

    def __init__(self, driver: Any, device: Any, context: Any) -> None:
        self.driver = driver
        self.name = str(device.name())
        self.compute_capability: tuple[int, int] = tuple(device.compute_capability())
        self._context = context
        self._depth = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread; calls may be nested.

        Raises the errors of CUDA within it as errors of this package: ``DeviceMemoryError``,
        ``LostDeviceError`` or ``BackendError``.
        """
        depth = getattr(self._depth, "value", 0)
        try:
            if depth == 0:
                self._context.push()
            self._depth.value = depth + 1
            try:
                yield
            finally:
                self._depth.value = depth
                if depth == 0:
                    self._context.pop()
        except self.driver.Error as error:
            raise failure(f"{self.name}: CUDA failed", reason_of(error), _REMEDY) from error

    def stream(self) -> Any:
        """Return a new stream, which does not wait for the default stream of other libraries."""
        return self.driver.Stream(NON_BLOCKING)

    def page_locked(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return ``n_bytes`` of memory that the GPU can copy while the CPU does other work."""
        try:
            locked: NDArray[np.uint8] = self.driver.pagelocked_empty(n_bytes, np.uint8)
        except self.driver.MemoryError as error:
            raise DeviceMemoryError(
                f"no {n_bytes / 1e6:.0f} MB of page-locked memory; lower --batch-size"
            ) from error
        return locked


@cache
def open_cuda(index: int) -> Cuda:
    """Return GPU number ``index`` with its primary context retained until the process ends.

    Raises ``BackendError`` if pycuda, the driver or the GPU is missing.
    """
    driver = import_pycuda()
    try:
        driver.init()
        count = driver.Device.count()
        if index >= count:
            raise BackendError(
                f"device cuda:{index}: this machine has {count} GPUs; use a lower number"
            )
        device = driver.Device(index)
        context = device.retain_primary_context()
    except driver.Error as error:
        raise BackendError(
            f"device cuda:{index}: CUDA does not start ({error}); run `triplex-deploy doctor`"
        ) from error
    atexit.register(context.detach)
    return Cuda(driver, device, context)


def import_pycuda() -> Any:
    """Import and return ``pycuda.driver``; raises ``BackendError`` that names what to install."""
    try:
        import pycuda.driver
    except ImportError as error:
        if "libcuda" in str(error):
            raise BackendError(
                f"the NVIDIA driver is not installed ({error}); install it, or pass --device cpu"
            ) from error
        raise BackendError(
            f"pycuda is not installed ({error}); "
            f"run `{install_command('gpu')}` with the CUDA toolkit's headers present"
        ) from error
    return pycuda.driver
