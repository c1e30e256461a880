"""The runtimes that open a bundle: each is declared by one entry of ``BACKENDS``.

Importing this module loads no runtime, so that a command can list the names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import CPU, Device

if TYPE_CHECKING:
    from triplex_deploy.bundle import Bundle, Target
    from triplex_deploy.runtime.session import Session

    Sessions = dict[str, Session]

logger = logging.getLogger(__name__)

AUTO: Final = "auto"
"""Lets this package choose the backend."""


@dataclass(frozen=True)
class OpenOptions:
    """How sessions use the machine; a backend ignores what it has no control of."""

    threads: int | None = None
    """Maximum number of CPU threads of one operator; None leaves it to the runtime."""
    spinning: bool = True
    """Whether idle threads of the runtime poll for work between operators, or sleep."""
    float_type: str = "fp32"
    """Type of products in layers that are not quantized, one of the backend's ``float_types``."""
    gpu_memory_gb: float | None = None
    """Most memory of a GPU for tensors; None sets no limit."""

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Return the limit in bytes, None for no limit."""
        return None if self.gpu_memory_gb is None else int(self.gpu_memory_gb * 1e9)


@dataclass(frozen=True)
class Backend:
    """A runtime and what the rest of the package must know of it."""

    name: str
    """Name in options and reports."""
    target: Target
    """Which graph files of a bundle it takes."""
    devices: tuple[str, ...]
    """Kinds of devices that it runs on, see ``Device.kind``."""
    modules: tuple[str, ...]
    """Modules that it imports. ``auto`` leaves the backend out if one of them is missing."""
    open: Callable[[Bundle, Device, OpenOptions, ExitStack], Sessions]
    """Open a session for each graph; the stack closes them.

    If the runtime compiles graphs for a device, this builds what is missing. Raises
    ``BackendError`` if the runtime or the device cannot be used; nothing is substituted.
    """
    has_gpu: Callable[[], bool]
    """Return whether the runtime can use a GPU on this machine."""
    open_for_threads: (
        Callable[[Bundle, Mapping[str, Session], OpenOptions, ExitStack], Sessions] | None
    ) = None
    """Open sessions on the CPU that several threads call at once with one thread per call.

    It takes the sessions that ``open`` returned, and may keep some of them. None if those serve
    several threads already.
    """
    float_types: tuple[str, ...] = ("fp32",)
    """Types in which it can compute the layers of an fp32 graph, see ``OpenOptions``."""

    @property
    def is_installed(self) -> bool:
        """Return whether every module that it imports is installed."""
        return all(find_spec(module) for module in self.modules)


def _open_onnxruntime(
    bundle: Bundle, device: Device, options: OpenOptions, stack: ExitStack
) -> Sessions:
    from triplex_deploy.runtime.ort import open_graphs

    return open_graphs(
        bundle, device, stack, options.threads, options.spinning, options.gpu_memory_bytes
    )


def _open_onnxruntime_for_threads(
    bundle: Bundle, sessions: Mapping[str, Session], _: OpenOptions, stack: ExitStack
) -> Sessions:
    from triplex_deploy.runtime.ort import open_single_threaded

    return open_single_threaded(bundle, sessions, stack)


def _onnxruntime_has_gpu() -> bool:
    from triplex_deploy.runtime.ort_load import cuda_usable

    return cuda_usable()


def _open_openvino(bundle: Bundle, _: Device, options: OpenOptions, stack: ExitStack) -> Sessions:
    from triplex_deploy.runtime.openvino import open_graphs

    return open_graphs(bundle, stack, options.float_type, options.threads)


def _open_openvino_for_threads(
    bundle: Bundle, sessions: Mapping[str, Session], options: OpenOptions, stack: ExitStack
) -> Sessions:
    from triplex_deploy.runtime.openvino import open_single_threaded

    return open_single_threaded(bundle, sessions, stack, options.float_type)


def _open_tensorrt(
    bundle: Bundle, device: Device, options: OpenOptions, stack: ExitStack
) -> Sessions:
    from triplex_deploy.runtime.tensorrt.engines import open_engines

    return open_engines(bundle, device, stack, options.gpu_memory_bytes)


def _tensorrt_has_gpu() -> bool:
    from triplex_deploy.runtime.ort_load import cuda_device_count

    return cuda_device_count() > 0


ONNXRUNTIME: Final = Backend(
    name="onnxruntime",
    target="onnxruntime",
    devices=("cpu", "cuda"),
    modules=("onnxruntime",),
    open=_open_onnxruntime,
    has_gpu=_onnxruntime_has_gpu,
    open_for_threads=_open_onnxruntime_for_threads,
)
TENSORRT: Final = Backend(
    name="tensorrt",
    target="tensorrt",
    devices=("cuda",),
    modules=("tensorrt", "pycuda"),
    open=_open_tensorrt,
    has_gpu=_tensorrt_has_gpu,
)
OPENVINO: Final = Backend(
    name="openvino",
    target="onnxruntime",
    devices=("cpu",),
    modules=("openvino",),
    open=_open_openvino,
    has_gpu=lambda: False,
    open_for_threads=_open_openvino_for_threads,
    float_types=("fp32", "bf16"),
)
BACKENDS: Final[dict[str, Backend]] = {
    backend.name: backend for backend in (TENSORRT, ONNXRUNTIME, OPENVINO)
}
"""Every backend by its name, in the order in which ``auto`` prefers them."""
BACKEND_NAMES: Final = (AUTO, *sorted(BACKENDS))
"""The values of ``--backend``."""
RUN_PRECISIONS: Final = (AUTO, "fp32", "bf16", "int8")
"""The values of ``predict --precision``, see ``cpu_choice``."""


def choose(bundle: Bundle, backend: str, device: Device | None) -> tuple[Backend | None, Device]:
    """Return the backend and the device to open a bundle with.

    Args:
        bundle: The bundle to open.
        backend: A name of ``BACKEND_NAMES``. ``auto`` is, on a GPU, the first backend of
            ``BACKENDS`` that runs on it, finds its graphs in the bundle and has its modules
            installed.
        device: The device; None is the first GPU if the backend can use one, otherwise the CPU.
            If both are to be chosen, ONNX Runtime decides about the device.

    Returns:
        The backend and the device. The backend is None for ``auto`` on a CPU, where a measurement
        decides (``cpu_choice``).

    Raises:
        BackendError: If the name is unknown, or the backend does not run on the device.
    """
    if backend != AUTO and backend not in BACKENDS:
        raise BackendError(f"backend {backend!r}: not known; use {' or '.join(BACKEND_NAMES)}")
    named = None if backend == AUTO else BACKENDS[backend]
    if device is None:
        device = Device("cuda") if (named or ONNXRUNTIME).has_gpu() else CPU
        if device == CPU and "cuda" in (named or ONNXRUNTIME).devices:
            _warn_of_idle_gpu()
    if named is None and device == CPU:
        return None, device
    chosen = named or _preferred(bundle, device)
    if device.kind not in chosen.devices:
        kinds = " or ".join(chosen.devices)
        raise BackendError(
            f"device {device}: {chosen.name} does not run on it; pass --device {kinds}, "
            f"or --backend {AUTO}"
        )
    return chosen, device


def _warn_of_idle_gpu() -> None:
    """Say on the screen that this machine's GPU is not used, because nobody chose the CPU."""
    from triplex_deploy.runtime.ort_load import gpu_beside_the_cpu

    if gpu_beside_the_cpu():
        logger.warning(
            "device auto: the CPU is used, because the installed onnxruntime cannot use this "
            "machine's GPU; run `triplex-deploy doctor`, install 'triplex-deploy[gpu]' in place of "
            "[cpu], or pass --device cpu"
        )


def _preferred(bundle: Bundle, device: Device) -> Backend:
    targets = {entry.target for entry in bundle.manifest.graphs}
    for backend in BACKENDS.values():
        fits = device.kind in backend.devices and backend.target in targets
        if fits and backend.is_installed:
            return backend
    return ONNXRUNTIME
