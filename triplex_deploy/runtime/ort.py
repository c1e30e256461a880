"""ONNX Runtime sessions on the CPU or a CUDA GPU, without silent fallback between them."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.session import Arrays, Session

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtSession(Session):
    """One ONNX file in ONNX Runtime; open it with ``open_ort_session``."""

    def __init__(self, spec: GraphSpec, session: Any) -> None:
        super().__init__(spec)
        self._session = session

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        if self._session is None:
            raise BackendError(f"{self.spec.name}: the session is closed; open the bundle again")
        names = [tensor.name for tensor in self.spec.outputs]
        try:
            outputs = self._session.run(names, dict(inputs))
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise BackendError(
                f"{self.spec.name}: ONNX Runtime failed ({_first_line(error)}); "
                "lower --batch-size if memory ran out"
            ) from error
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._session = None


def open_ort_session(
    path: Path, spec: GraphSpec, device: Device = CPU, threads: int | None = None
) -> OrtSession:
    """Load one graph on ``device``; ``threads`` limits the CPU threads within an operator.

    Raises ``BackendError`` if the device's provider is absent or did not take the graph.
    """
    return OrtSession(spec, load_session(path, device, threads))


def load_session(path: Path, device: Device = CPU, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``device``; raises as ``open_ort_session``."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if device.kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = _PROVIDERS[device.kind]
    _require_provider(ort, provider, device)
    config = {"device_id": device.index} if device.kind == "cuda" else {}
    try:
        # enable_fallback=0: onnxruntime's Python layer would otherwise go on with the CPU.
        session = ort.InferenceSession(
            str(path), options, providers=[(provider, config)], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise BackendError(
            f"{path}: ONNX Runtime cannot load it on {device} ({_first_line(error)}); "
            "compare `triplex-deploy doctor` with the versions in the bundle's README"
        ) from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"device {device}: ONNX Runtime offered {session.get_providers()[0]} instead; "
            "check the CUDA libraries with `triplex-deploy doctor`, or pass --device cpu"
        )
    return session


def import_onnxruntime() -> Any:
    """The onnxruntime module; raises ``BackendError`` with the install command if it is absent.

    Its telemetry is off unless ``ORT_DISABLE_TELEMETRY`` says otherwise: slides are patients' data.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime is not installed ({error}); "
            "run `pip install 'triplex-deploy[cpu]'`, or [gpu] on a CUDA machine"
        ) from error
    return onnxruntime


def cuda_usable() -> bool:
    """Whether this onnxruntime has CUDA and the driver reports at least one GPU."""
    if _PROVIDERS["cuda"] not in import_onnxruntime().get_available_providers():
        return False
    return cuda_device_count() > 0


def cuda_device_count() -> int:
    """GPUs the CUDA driver reports; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _require_provider(ort: Any, provider: str, device: Device) -> None:
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"device {device}: this onnxruntime has no {provider} "
            f"(it has {', '.join(ort.get_available_providers())}); "
            "install 'triplex-deploy[gpu]' in place of [cpu], or pass --device cpu"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
