"""Load ONNX Runtime, its sessions and its CUDA provider, and see whether there is a GPU."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import shutil
import subprocess
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.failures import reason_of

logger = logging.getLogger(__name__)

_SMI_S: Final = 10.0
"""Most seconds that ``nvidia-smi`` may take."""
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Tuning:
    """How a session uses the machine."""

    threads: int | None = None
    """Maximum number of CPU threads of one operator; None leaves it to ONNX Runtime."""
    spinning: bool = True
    """Whether idle threads poll for work between operators, or sleep and leave cores to others."""
    tf32: bool = False
    """Whether a GPU may round the factors of matrix products to 10 bits."""
    optimize: bool = True
    """Whether ONNX Runtime rewrites the graph, or runs it as it is in the file."""
    memory_pattern: bool = True
    """Whether all tensors of a call share one block of memory, which is kept for the next call.

    Without it each tensor is allocated when it is needed, which takes less memory.
    """
    arena_bytes: int | None = None
    """Most memory of a GPU that the session takes; None sets no limit."""


def load_session(
    model: Path | bytes,
    device: Device = CPU,
    threads: int | None = None,
    tuning: Tuning | None = None,
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` for a file or its content.

    Takes the arguments of ``open_ort_session``, and raises the same errors.
    """
    ort = import_onnxruntime()
    tuning = tuning or Tuning(threads)
    provider = _PROVIDERS[device.kind]
    _require_provider(ort, provider, device)
    config = cuda_options(device, tuning) if device.kind == "cuda" else {}
    if device.kind == "cuda":
        preload_cuda(ort)
    try:
        # Without enable_fallback=0 onnxruntime would continue on the CPU after an error.
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            _session_options(ort, device, tuning),
            providers=[(provider, config)],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base
        name = "graph" if isinstance(model, bytes) else model
        raise BackendError(
            f"{name}: ONNX Runtime cannot load it on {device} ({reason_of(error)}); "
            "compare `triplex-deploy doctor` with the versions in the bundle's README"
        ) from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"device {device}: ONNX Runtime offered {session.get_providers()[0]} instead; "
            "check the CUDA libraries with `triplex-deploy doctor`, or pass --device cpu"
        )
    return session


def _session_options(ort: Any, device: Device, tuning: Tuning) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if tuning.threads is not None:
        options.intra_op_num_threads = tuning.threads
    if not tuning.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = tuning.memory_pattern
    if not tuning.optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if device.kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def cuda_options(device: Device, tuning: Tuning) -> dict[str, str]:
    """Return options of the CUDA provider; its own default uses TF32 in fp32 graphs."""
    options = {
        "device_id": str(device.index),
        "use_tf32": str(int(tuning.tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",  # a search would run again for each batch size
        "do_copy_in_default_stream": "1",
    }
    if tuning.arena_bytes is not None:
        options["gpu_mem_limit"] = str(tuning.arena_bytes)
        options["arena_extend_strategy"] = "kSameAsRequested"  # not the next power of two
    return options


def import_onnxruntime() -> Any:
    """Import and return onnxruntime.

    Its telemetry is off unless the environment sets ``ORT_DISABLE_TELEMETRY``, because slides are
    data of patients. Raises ``BackendError`` with the install command if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime is not installed ({error}); "
            f"run `{install_command('cpu')}`, or [gpu] on a CUDA machine"
        ) from error
    return onnxruntime


def preload_cuda(ort: Any) -> None:
    """Load the CUDA libraries that pip installed, so that ONNX Runtime finds them."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    printed = io.StringIO()
    with redirect_stdout(printed):  # it prints missing libraries; opening a session reports them
        preload()
    if printed.getvalue():
        logger.debug("onnxruntime.preload_dlls: %s", printed.getvalue())


def cuda_usable() -> bool:
    """Return whether this onnxruntime has CUDA and the driver reports at least one GPU."""
    if _PROVIDERS["cuda"] not in import_onnxruntime().get_available_providers():
        return False
    return cuda_device_count() > 0


def cuda_device_count() -> int:
    """Return the number of GPUs that the CUDA driver reports; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def free_gpu_bytes(index: int) -> int | None:
    """Return the free memory of a GPU, None if the CUDA driver does not tell."""
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
            return None
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if driver.cuCtxPushCurrent_v2(context):
                return None
            failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        finally:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    except (OSError, AttributeError):
        return None
    return None if failed else free.value


def gpu_beside_the_cpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, whatever the installed packages can use.

    The driver says so or, where it does not start, the tool that comes with it.
    """
    if cuda_device_count() > 0:
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_SMI_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return listed.stdout.startswith("GPU ")


def _require_provider(ort: Any, provider: str, device: Device) -> None:
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"device {device}: this onnxruntime has no {provider} "
            f"(it has {', '.join(ort.get_available_providers())}); "
            "install 'triplex-deploy[gpu]' in place of [cpu], or pass --device cpu"
        )
