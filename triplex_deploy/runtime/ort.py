"""ONNX Runtime sessions on the CPU or a CUDA GPU, without silent fallback between them."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import DeviceArray, Tensor, Tensors
from triplex_deploy.runtime.session import Arrays, DeviceMemoryError, Session, dynamic_length

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_MEMORY_WORDS: Final = ("out of memory", "failed to allocate memory", "cuda error 2", "bad_alloc")


@dataclass(frozen=True)
class Tuning:
    """How a session uses the machine.

    ``threads`` bounds the CPU threads of one operator; without ``spinning`` they sleep between
    operators, which leaves the cores to decoding. ``tf32`` lets a GPU round the factors of matrix
    products to 10 bits. ``gpu_memory_gb`` bounds ONNX Runtime's memory on the GPU. ``optimise``
    False runs the graph as it is written. ``lays_out`` False allocates each tensor by itself:
    otherwise ONNX Runtime reserves a block for all of them at the sizes it has seen, beside what
    it holds already.
    """

    threads: int | None = None
    spinning: bool = True
    tf32: bool = False
    gpu_memory_gb: float | None = None
    optimise: bool = True
    lays_out: bool = True


class OrtArray(DeviceArray):
    """An array in memory that ONNX Runtime allocated on a GPU."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int, value: Any, first: int = 0
    ) -> None:
        super().__init__(shape, dtype, pointer)
        self._value = value
        self._first = first  # this array's first row within the value

    @classmethod
    def of(cls, value: Any, dtype: str) -> OrtArray:
        return cls(tuple(value.shape()), np.dtype(dtype), value.data_ptr(), value)

    def numpy(self) -> NDArray[Any]:
        whole: NDArray[Any] = self._value.numpy()
        return whole[self._first : self._first + len(self)]

    def _view(self, shape: tuple[int, ...], pointer: int) -> OrtArray:
        row_bytes = self.nbytes // max(1, len(self))
        first = self._first + ((pointer - self.pointer) // row_bytes if row_bytes else 0)
        return OrtArray(shape, self.dtype, pointer, self._value, first)


class OrtSession(Session):
    """One ONNX file in ONNX Runtime; open it with ``open_ort_session``."""

    def __init__(
        self, spec: GraphSpec, session: Any, device: Device = CPU, bound: bool | None = None
    ) -> None:
        """``bound`` keeps tensors in the device's memory, which is the rule off the CPU."""
        super().__init__(spec)
        self._session = session
        self._device = device
        self._bound = device.kind != "cpu" if bound is None else bound
        self._buffers = threading.local()  # one set per thread that runs the graph
        self._limit = BatchLimit(spec)

    def _run(self, inputs: Tensors) -> Arrays:
        if not self._bound:
            per_batch = self.spec.kind != "per slide"
            run = self._run_on_host if per_batch else self._run_and_give_memory_back
            return self._call(lambda: run(inputs))
        return self._limit.run(inputs, self._run_pieces)

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        if not self._bound:
            return self._run(inputs)
        return self._limit.run_kept(inputs, self._keep, self._run_pieces)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        if not self._bound:
            return array
        held = self._call(lambda: {"array": _on_device(array, self._device)})
        return OrtArray.of(held["array"], array.dtype.name)

    def _run_on_host(self, inputs: Tensors) -> Arrays:
        names = [tensor.name for tensor in self.spec.outputs]
        arrays: list[NDArray[Any]] = self._session.run(names, dict(inputs))
        return dict(zip(names, arrays, strict=True))

    def _run_and_give_memory_back(self, inputs: Tensors) -> Arrays:
        """Run once for a slide: outputs lie in arrays of ours, and the arena keeps nothing."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        n_spots = dynamic_length(self.spec, inputs)
        outputs: Arrays = {}
        for tensor in self.spec.outputs:
            shape = [n_spots if isinstance(axis, str) else axis for axis in tensor.axes]
            array = outputs[tensor.name] = np.empty(shape, tensor.dtype)
            binding.bind_output(
                *(tensor.name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
            )
        self._session.run_with_iobinding(binding, _giving_memory_back())
        return outputs

    def _run_pieces(self, pieces: list[Tensors]) -> list[Arrays]:
        kept = (self._keep(piece) for piece in pieces)
        return [{name: array.numpy() for name, array in outputs.items()} for outputs in kept]

    def _keep(self, inputs: Tensors) -> dict[str, Any]:
        return self._call(lambda: self._bound_outputs(inputs))

    def _bound_outputs(self, inputs: Tensors) -> dict[str, OrtArray]:
        """Run with inputs and outputs in the device's memory."""
        binding = self._session.io_binding()
        buffers = self._input_buffers()
        kind, index = self._device.kind, self._device.index
        for tensor in self.spec.inputs:
            array = inputs[tensor.name]
            if isinstance(array, DeviceArray):
                binding.bind_input(
                    *(tensor.name, kind, index, array.dtype.type, list(array.shape), array.pointer)
                )
            else:
                binding.bind_ortvalue_input(tensor.name, buffers.hold(tensor.name, array))
        for tensor in self.spec.outputs:
            binding.bind_output(tensor.name, kind, index)
        self._session.run_with_iobinding(binding)
        return {
            tensor.name: OrtArray.of(value, tensor.dtype)
            for tensor, value in zip(self.spec.outputs, binding.get_outputs(), strict=True)
        }

    def _call(self, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``run`` returns, its failures in our words."""
        if self._session is None:
            raise BackendError(f"{self.spec.name}: the session is closed; open the bundle again")
        try:
            return run()
        except Exception as error:  # onnxruntime's own exceptions share no public base
            text = _first_line(error)
            kind = DeviceMemoryError if _is_about_memory(text) else BackendError
            raise kind(
                f"{self.spec.name}: ONNX Runtime failed ({text}); "
                "lower --batch-size if memory ran out"
            ) from error

    def _input_buffers(self) -> _InputBuffers:
        held: _InputBuffers | None = getattr(self._buffers, "held", None)
        if held is None:
            held = self._buffers.held = _InputBuffers(self._device)
        return held

    def close(self) -> None:
        self._session = None
        self._buffers = threading.local()


@dataclass
class _InputBuffers:
    """A buffer on the device for each input, written again while the shape stays the same."""

    device: Device
    held: dict[str, Any] = field(default_factory=dict)

    def hold(self, name: str, array: NDArray[Any]) -> Any:
        value, contiguous = self.held.get(name), np.ascontiguousarray(array)
        if value is None or tuple(value.shape()) != array.shape:
            self.held.pop(name, None)  # its memory first: two batches may not fit
            self.held[name] = value = _on_device(contiguous, self.device)
        else:
            value.update_inplace(contiguous)
        return value


def _on_device(array: NDArray[Any], device: Device) -> Any:
    """A copy of ``array`` as a value of ONNX Runtime."""
    if device.kind == "cpu":
        array = array.copy()  # the value would be the caller's array
    ort = import_onnxruntime()
    return ort.OrtValue.ortvalue_from_numpy(array, device.kind, device.index)


def open_ort_session(
    path: Path,
    spec: GraphSpec,
    device: Device = CPU,
    threads: int | None = None,
    tuning: Tuning | None = None,
) -> OrtSession:
    """Load one graph on ``device``; ``threads`` limits the CPU threads within an operator.

    A graph over all spots of a slide holds little more than its tensors, and after a call on the
    CPU nothing. Raises ``BackendError`` if the device's provider is absent or did not take the
    graph.
    """
    tuning = tuning or Tuning(threads)
    if spec.kind == "per slide":
        tuning = replace(tuning, lays_out=False)
    return OrtSession(spec, load_session(path, device, tuning=tuning), device)


def load_session(
    path: Path, device: Device = CPU, threads: int | None = None, tuning: Tuning | None = None
) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``device``; raises as ``open_ort_session``."""
    ort = import_onnxruntime()
    tuning = tuning or Tuning(threads)
    provider = _PROVIDERS[device.kind]
    _require_provider(ort, provider, device)
    config = _cuda_options(device, tuning) if device.kind == "cuda" else {}
    if device.kind == "cuda":
        preload_cuda(ort)
    try:
        # enable_fallback=0: onnxruntime's Python layer would otherwise go on with the CPU.
        session = ort.InferenceSession(
            str(path),
            _session_options(ort, device, tuning),
            providers=[(provider, config)],
            enable_fallback=0,
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


def _session_options(ort: Any, device: Device, tuning: Tuning) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if tuning.threads is not None:
        options.intra_op_num_threads = tuning.threads
    if not tuning.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = tuning.lays_out
    if not tuning.optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if device.kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _giving_memory_back() -> Any:
    """Options of a run on the CPU after which ONNX Runtime's arena gives back unused memory."""
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _cuda_options(device: Device, tuning: Tuning) -> dict[str, str]:
    """Options of the CUDA provider, which by default would use TF32 in an fp32 graph."""
    options = {
        "device_id": str(device.index),
        "use_tf32": str(int(tuning.tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",  # batches vary, and each would be searched anew
        "do_copy_in_default_stream": "1",
    }
    if tuning.gpu_memory_gb is not None:
        options["gpu_mem_limit"] = str(int(tuning.gpu_memory_gb * (1 << 30)))
    return options


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


def preload_cuda(ort: Any) -> None:
    """Let ONNX Runtime find the CUDA libraries that pip installed, before it looks for them."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    said = io.StringIO()
    with redirect_stdout(said):  # it prints what it does not find, which the session then reports
        preload()
    if said.getvalue():
        logger.debug("onnxruntime.preload_dlls: %s", said.getvalue())


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


def _is_about_memory(text: str) -> bool:
    return any(word in text.lower() for word in _MEMORY_WORDS)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
