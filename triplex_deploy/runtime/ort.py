"""Run graphs in ONNX Runtime on the CPU or a CUDA GPU; neither replaces the other silently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import DeviceArray, Tensor, Tensors
from triplex_deploy.runtime.failures import failed_call
from triplex_deploy.runtime.ort_load import Tuning, import_onnxruntime, load_session
from triplex_deploy.runtime.ort_rows import OrtArray, on_device, open_ort_table
from triplex_deploy.runtime.row_table import RowTable
from triplex_deploy.runtime.session import Arrays, Session, dynamic_length


class OrtSession(Session):
    """Runs one ONNX file in ONNX Runtime; open it with ``open_ort_session``."""

    def __init__(
        self,
        spec: GraphSpec,
        session: Any,
        device: Device = CPU,
        bound: bool | None = None,
        opens_tables: bool = True,
    ) -> None:
        """Run a session of ONNX Runtime.

        Args:
            spec: The graph's contract.
            session: An ``onnxruntime.InferenceSession``.
            device: Where it runs.
            bound: Whether tensors are kept in the device's memory; None does so on every device but
                the CPU.
            opens_tables: Whether rows may be kept there, too. With a limit of memory they may not,
                as it does not hold for them.
        """
        super().__init__(spec)
        self._opens_tables = opens_tables
        self._session = session
        self._device = device
        self._bound = device.kind != "cpu" if bound is None else bound
        self._buffers = threading.local()  # each thread has its own
        self._limit = BatchLimit(spec)

    def _run(self, inputs: Tensors) -> Arrays:
        if not self._bound:
            per_batch = self.spec.kind != "per slide"
            run = self._run_on_host if per_batch else self._run_and_free_memory
            return self._call(lambda: run(inputs))
        return self._limit.run(inputs, self._run_pieces)

    def _submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        """Run the graph now, and copy its outputs back when they are asked for."""
        if self._bound:
            outputs = self._limit.run_kept(inputs, self._keep, self._run_pieces)
            return lambda: self._call(lambda: {n: _host(array) for n, array in outputs.items()})
        whole = self._run(inputs)
        return lambda: whole

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        if not self._bound:
            return self._run(inputs)
        return self._limit.run_kept(inputs, self._keep, self._run_pieces)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        if not self._bound:
            return array
        held = self._call(lambda: {"array": on_device(array, self._device)})
        return OrtArray.of(held["array"], array.dtype.name)

    def open_table(self, shape: tuple[int, ...]) -> RowTable | None:
        if not (self._bound and self._opens_tables):
            return None
        return open_ort_table(self._device, shape)

    def _run_on_host(self, inputs: Tensors) -> Arrays:
        names = [tensor.name for tensor in self.spec.outputs]
        arrays: list[NDArray[Any]] = self._session.run(names, dict(inputs))
        return dict(zip(names, arrays, strict=True))

    def _run_and_free_memory(self, inputs: Tensors) -> Arrays:
        """Run a graph over a whole slide, and free ONNX Runtime's working memory afterwards.

        The outputs are written into NumPy arrays, so that they need no copy.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        n_spots = dynamic_length(self.spec, inputs)
        outputs: Arrays = {}
        for tensor in self.spec.outputs:
            shape = [n_spots if isinstance(axis, str) else axis for axis in tensor.axes]
            array = outputs[tensor.name] = np.empty(shape, tensor.dtype)
            binding.bind_output(
                name=tensor.name,
                device_type="cpu",
                device_id=0,
                element_type=array.dtype.type,
                shape=shape,
                buffer_ptr=array.ctypes.data,
            )
        self._session.run_with_iobinding(binding, _freeing_memory())
        return outputs

    def _run_pieces(self, pieces: list[Tensors]) -> list[Arrays]:
        kept = (self._keep(piece) for piece in pieces)
        return [{name: array.numpy() for name, array in outputs.items()} for outputs in kept]

    def _keep(self, inputs: Tensors) -> dict[str, Any]:
        return self._call(lambda: self._bound_outputs(inputs))

    def _bound_outputs(self, inputs: Tensors) -> dict[str, OrtArray]:
        """Run with inputs and outputs in the device's memory; return the outputs."""
        binding = self._session.io_binding()
        buffers = self._input_buffers()
        kind, index = self._device.kind, self._device.index
        for tensor in self.spec.inputs:
            array = inputs[tensor.name]
            if isinstance(array, DeviceArray):
                binding.bind_input(
                    name=tensor.name,
                    device_type=kind,
                    device_id=index,
                    element_type=array.dtype.type,
                    shape=list(array.shape),
                    buffer_ptr=array.pointer,
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
        """Return what ``run`` returns; raise its errors as errors of this package."""
        if self._session is None:
            raise BackendError(f"{self.spec.name}: the session is closed; open the bundle again")
        try:
            return run()
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise failed_call(self.spec.name, "ONNX Runtime", error) from error

    def _input_buffers(self) -> _InputBuffers:
        held: _InputBuffers | None = getattr(self._buffers, "held", None)
        if held is None:
            held = self._buffers.held = _InputBuffers(self._device)
        return held

    def close(self) -> None:
        self._session = None
        self._buffers = threading.local()


def _host(array: Tensor) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.numpy()


@dataclass
class _InputBuffers:
    """A buffer on the device for each input; it is reused while the shape stays the same."""

    device: Device
    held: dict[str, Any] = field(default_factory=dict)

    def hold(self, name: str, array: NDArray[Any]) -> Any:
        """Copy ``array`` into the buffer of input ``name``; return the buffer, an ``OrtValue``."""
        value, contiguous = self.held.get(name), np.ascontiguousarray(array)
        if value is None or tuple(value.shape()) != array.shape:
            self.held.pop(name, None)  # free it first: two batches may not fit
            self.held[name] = value = on_device(contiguous, self.device)
        else:
            value.update_inplace(contiguous)
        return value


def open_ort_session(
    path: Path,
    spec: GraphSpec,
    device: Device = CPU,
    threads: int | None = None,
    tuning: Tuning | None = None,
) -> OrtSession:
    """Load one graph.

    A graph that runs per slide uses little more memory than its tensors, and frees it after each
    call on the CPU.

    Args:
        path: The ONNX file.
        spec: The graph's contract.
        device: Where to run it.
        threads: Maximum number of CPU threads of one operator, unless ``tuning`` is given.
        tuning: How the session uses the machine.

    Returns:
        The session.

    Raises:
        BackendError: If ONNX Runtime lacks the device's provider, or cannot load the graph on it.
    """
    tuning = tuning or Tuning(threads)
    if spec.kind == "per slide":
        tuning = replace(tuning, memory_pattern=False)
    session = load_session(path, device, tuning=tuning)
    return OrtSession(spec, session, device, opens_tables=tuning.arena_bytes is None)


def open_graphs(
    bundle: Bundle,
    device: Device,
    stack: ExitStack,
    threads: int | None,
    spinning: bool,
    gpu_memory_bytes: int | None = None,
) -> dict[str, Session]:
    """Open a session for each graph of a bundle.

    Args:
        bundle: A verified bundle.
        device: Where the graphs run.
        stack: Closes the sessions when it closes.
        threads: See ``Tuning``.
        spinning: See ``Tuning``.
        gpu_memory_bytes: Most memory of the GPU for all sessions together: each has its own arena,
            which gets an equal part; None sets no limit.

    Returns:
        The sessions by graph name.

    Raises:
        BackendError: If ONNX Runtime lacks the device's provider, or cannot load a graph on it, or
            would run a graph there more slowly than one in fp32.
    """
    sessions: dict[str, Session] = {}
    for name, spec in bundle.specs.items():
        entry = bundle.entry(name, "onnxruntime")
        if device.kind != "cpu" and precision_of(entry.precision).needs_calibration:
            raise BackendError(
                f"{bundle.path}: its {entry.precision} graphs for ONNX Runtime are for CPUs, on "
                f"{device} they would compute in fp32 between conversions; export with "
                f"--format tensorrt --precision {entry.precision}, or with --precision fp16"
            )
        tuning = Tuning(
            threads,
            spinning,
            precision_of(entry.precision).allows_tf32,
            arena_bytes=gpu_memory_bytes and gpu_memory_bytes // len(bundle.specs),
        )
        session = open_ort_session(bundle.path / entry.file, spec, device, tuning=tuning)
        sessions[name] = stack.enter_context(session)
    return sessions


def open_single_threaded(
    bundle: Bundle, sessions: Mapping[str, Session], stack: ExitStack
) -> dict[str, Session]:
    """Open sessions on the CPU that workers call at once, each call in one thread.

    Several calls in one thread each need less CPU time than one call in several threads, at any
    batch size: no work is split, and no thread waits for another (docs/throughput.md). A graph that
    runs per slide is called once, so its session of ``sessions`` is kept. ``stack`` closes what is
    opened.
    """
    opened = dict(sessions)
    for name, spec in bundle.specs.items():
        if spec.kind != "per slide":
            path = bundle.path / bundle.entry(name, "onnxruntime").file
            opened[name] = stack.enter_context(open_ort_session(path, spec, CPU, threads=1))
    return opened


def _freeing_memory() -> Any:
    """Return options of a run on the CPU, after which ONNX Runtime frees its unused memory."""
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
