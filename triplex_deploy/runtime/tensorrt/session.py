"""Run a TensorRT engine as a ``Session`` with two stream slots, so copies overlap computing.

The code uses TensorRT 11 and pycuda. The tests replace both by stand-ins; docs/gpu-servers.md says
what has run on a GPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.install import install_command, install_package
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.failures import failure
from triplex_deploy.runtime.row_table import RowTable
from triplex_deploy.runtime.session import (
    Arrays,
    Buffers,
    DeviceMemoryError,
    LostDeviceError,
    Session,
    check_inputs,
    dynamic_length,
)
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import (
    ALIGNMENT,
    CudaArray,
    Event,
    Memory,
    MemoryBudget,
    MemoryPool,
)
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange
from triplex_deploy.runtime.tensorrt.results import ResultLane
from triplex_deploy.runtime.tensorrt.row_table import open_row_table
from triplex_deploy.runtime.tensorrt.upload import UploadLane

logger = logging.getLogger(__name__)


STREAM_SLOTS: Final = 2
"""Number of batches in progress at once: one is copied while the other is computed."""
MAJOR: Final = 11
"""The first TensorRT whose networks are always strongly typed, as the exported graphs need."""


class TrtSession(Session):
    """Runs one engine; open it with ``open_trt_session``.

    Several threads may call it at once. The lock is held while a batch is queued on a stream, and
    not while anything is awaited or copied back.
    """

    takes_turns = False

    def __init__(
        self,
        spec: GraphSpec,
        profile: ProfileRange,
        loaded: _Loaded,
        slots: list[_StreamSlot],
        cuda: Cuda,
    ) -> None:
        super().__init__(spec)
        self._profile = profile
        self._loaded: _Loaded | None = loaded
        self._slots = deque(slots)
        self._uploads: UploadLane | None = UploadLane(cuda, loaded.pool)
        self._cuda = cuda
        self._limit = BatchLimit(spec, profile.max)
        self.most_rows = self._limit.most
        self.longest = profile.max if spec.kind == "per slide" else None
        self._lock = threading.RLock()

    def _run(self, inputs: Tensors) -> Arrays:
        self._check_profile(inputs)
        return self._limit.run(inputs, self._run_pieces)

    def run_staged(self, inputs: Tensors) -> tuple[Arrays, dict[str, float]]:
        """Run a batch within the profile; return outputs and the seconds of each stage."""
        check_inputs(self.spec, inputs)
        self._check_profile(inputs)
        with self._lock, self._cuda.current():
            return self._next_slot().run_staged(inputs)

    def _run_pieces(self, pieces: list[Tensors]) -> list[Arrays]:
        """Run the pieces in order; the next piece starts before the last has ended."""
        outputs: list[Arrays] = []
        waiting: deque[Callable[[], Arrays]] = deque()
        for piece in pieces:
            if len(waiting) == STREAM_SLOTS:
                outputs.append(waiting.popleft()())
            waiting.append(self._start(piece))
        return outputs + [collect() for collect in waiting]

    def _submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        self._check_profile(inputs)
        if not self._limit.needs_cut(inputs):
            with suppress(DeviceMemoryError):  # ``_run`` tries again, and then in halves
                return self._start(inputs)
        outputs = self._run(inputs)
        return lambda: outputs

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        self._check_profile(inputs)
        return self._limit.run_kept(inputs, self._keep, self._run_pieces)

    def _keep(self, inputs: Tensors) -> dict[str, Any]:
        with self._lock, self._cuda.current():
            return dict(self._next_slot().start(inputs))

    def _upload(self, array: NDArray[Any]) -> Tensor:
        if self._uploads is None:
            raise self._closed()
        with self._cuda.current():
            return self._uploads.upload(array)

    def lend_buffers(self, shape: tuple[int, ...]) -> Buffers | None:
        if self._uploads is None:
            raise self._closed()
        return self._uploads.lend(shape)

    def open_table(self, shape: tuple[int, ...]) -> RowTable | None:
        if self._loaded is None:
            raise self._closed()
        with self._cuda.current():
            return open_row_table(self._cuda, self._loaded.pool, self._loaded.results, shape)

    def _start(self, inputs: Tensors) -> Callable[[], Arrays]:
        """Start a batch; return a function that waits for it and returns its outputs."""
        with self._lock, self._cuda.current():
            slot = self._next_slot()
            copies = slot.copy_out(slot.start(inputs))

        def collect() -> Arrays:
            with self._cuda.current():
                arrays = copies.wait()  # unlocked: another thread may start its batch meanwhile
                with self._lock:
                    slot.release(copies)
                return arrays

        return collect

    def _next_slot(self) -> _StreamSlot:
        if not self._slots:
            raise self._closed()
        slot = self._slots[0]
        self._slots.rotate(-1)
        slot.finish()
        return slot

    def _closed(self) -> BackendError:
        return BackendError(f"{self.spec.name}: the session is closed; open the bundle again")

    def _check_profile(self, inputs: Tensors) -> None:
        """Raise ``ContractError`` for a length that splitting cannot bring into the profile."""
        length, axis = dynamic_length(self.spec, inputs), self.spec.batch_axis
        too_long = axis != "batch" and length > self._profile.max
        if too_long or length < self._profile.min:
            raise ContractError(
                f"{self.spec.name}: {length} {axis}, its engine was built for {self._profile}; "
                f"export with --profile {axis}=MIN:OPT:MAX around it, "
                "or use --backend onnxruntime"
            )

    def close(self) -> None:
        """Wait for the work in progress, then free contexts, engine and runtime in this order.

        A lost context has freed them already, and is no error here.
        """
        with (
            suppress(LostDeviceError),
            self._lock,
            self._cuda.current(),
            ExitStack() as parts,  # closes them in reverse
        ):
            if self._loaded is not None:
                parts.callback(self._loaded.close)
            while self._slots:
                parts.callback(self._slots.popleft().close)
            if self._uploads is not None:
                parts.callback(self._uploads.close)
            self._loaded = self._uploads = None


def open_trt_session(
    trt: Any,
    runtime: Any,
    plan: bytes,
    spec: GraphSpec,
    profile: ProfileRange,
    cuda: Cuda,
    reasons: Any,
    budget: MemoryBudget | None = None,
) -> TrtSession:
    """Open a session for a plan whose manifest has been checked.

    ``reasons`` is the ``error_collector`` of ``runtime``. ``budget`` is shared by all sessions that
    may take a part of the GPU's memory alone. Raises ``BackendError`` if TensorRT
    refuses the plan, and ``ContractError`` if the engine's tensors differ from ``spec``.
    """
    with cuda.current():
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{spec.name}: TensorRT {trt.__version__} refuses the engine ({reasons.take()}); "
                "delete the bundle's engines folder to have it built again"
            )
        _check_engine(trt, engine, spec)
        pool = MemoryPool(cuda, budget)
        results = pool.results = ResultLane(cuda, pool)
        slots = []
        for _ in range(STREAM_SLOTS):
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.create_execution_context(strategy)
            if context is None:
                raise BackendError(
                    f"{spec.name}: TensorRT cannot run the engine ({reasons.take()}); "
                    "free the GPU's memory"
                )
            slots.append(_StreamSlot(spec, context, cuda, pool, reasons))
        return TrtSession(spec, profile, _Loaded(engine, runtime, pool, results), slots, cuda)


def import_tensorrt() -> Any:
    """Import and return ``tensorrt``; raises ``BackendError`` that names what is missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        text = " ".join(str(error).split())
        missing = "its libraries" if "libnvinfer" in text else "it"
        raise BackendError(
            f"TensorRT cannot be used: {missing} cannot be loaded ({text}); "
            f"run `{install_command('gpu')}`, see docs/gpu-servers.md"
        ) from error
    major = int(str(tensorrt.__version__).partition(".")[0])
    if major < MAJOR:
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is too old; "
            f"run `{install_package(f'tensorrt>={MAJOR}')}`, or use --backend onnxruntime"
        )
    return tensorrt


@dataclass
class _Loaded:
    """An engine, the runtime that must outlive it, and the memory it uses."""

    engine: Any
    runtime: Any
    pool: MemoryPool
    results: ResultLane

    def close(self) -> None:
        self.engine = None
        self.runtime = None
        self.pool.close()


class _StreamSlot:
    """A CUDA stream with an execution context and buffers.

    It keeps every array and buffer alive that its work uses.
    """

    def __init__(
        self, spec: GraphSpec, context: Any, cuda: Cuda, pool: MemoryPool, reasons: Any
    ) -> None:
        self._spec = spec
        self._context = context
        self._cuda = cuda
        self._pool = pool
        self._reasons = reasons
        self._stream = cuda.stream()
        self._locked: dict[str, NDArray[np.uint8]] = {}
        self._held: list[object] = []
        self._copies: _Copies | None = None

    def start(self, inputs: Tensors) -> dict[str, CudaArray]:
        """Queue the copies to the GPU and the engine; return outputs that become ready later."""
        try:
            outputs = self._bind(inputs)
            self._launch()
        except BaseException:
            self.finish()  # what was queued may still use the buffers
            raise
        ready = self._pool.event(self._stream)
        for output in outputs.values():
            output.ready = ready
        return outputs

    def run_staged(self, inputs: Tensors) -> tuple[Arrays, dict[str, float]]:
        """Run with a wait after each stage; return the outputs and the seconds of each stage."""
        times = [time.perf_counter()]
        try:
            outputs = self._bind(inputs)
            self._stream.synchronize()
            times.append(time.perf_counter())
            self._launch()
            self._stream.synchronize()
            times.append(time.perf_counter())
            copies = self.copy_out(outputs)
            arrays = copies.wait()
            self.release(copies)
        except BaseException:
            self.finish()
            raise
        times.append(time.perf_counter())
        names = ("host_to_device", "compute", "device_to_host")
        return arrays, {name: times[i + 1] - times[i] for i, name in enumerate(names)}

    def _bind(self, inputs: Tensors) -> dict[str, CudaArray]:
        """Queue the copies to the GPU; return the arrays that the engine will write."""
        for tensor in self._spec.inputs:
            self._bind_input(tensor, inputs[tensor.name])
        unset = self._context.infer_shapes()
        if unset:
            raise BackendError(f"{self._spec.name}: TensorRT misses the shape of {unset}")
        outputs = {tensor.name: self._bind_output(tensor) for tensor in self._spec.outputs}
        self._bind_scratch()
        return outputs

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise failure(
                f"{self._spec.name}: TensorRT did not start the engine",
                self._reasons.take(),
                "run `triplex-deploy doctor`, or use --backend onnxruntime",
            )

    def copy_out(self, outputs: dict[str, CudaArray]) -> _Copies:
        """Queue the copies of ``outputs`` to the CPU; wait for what is returned."""
        locked = {}
        for name, output in outputs.items():
            locked[name] = self._page_locked(f"out {name}", output.nbytes)
            self._cuda.driver.memcpy_dtoh_async(locked[name], output.pointer, self._stream)
        shapes = {name: (output.shape, output.dtype) for name, output in outputs.items()}
        self._copies = _Copies(self._pool.event(self._stream), locked, shapes)
        return self._copies

    def release(self, copies: _Copies) -> None:
        """Free the buffers of awaited ``copies``, unless later work uses them."""
        if copies is self._copies:
            self.finish()

    def finish(self) -> None:
        """Wait until the work of this slot is done; an unread result is kept for its reader."""
        if self._copies is not None:
            self._copies.wait()
            self._copies = None
        self._stream.synchronize()
        self._held.clear()

    def close(self) -> None:
        try:
            self.finish()
        finally:
            self._copies = self._context = self._stream = None
            self._held.clear()
            self._locked.clear()

    def _bind_input(self, tensor: TensorSpec, array: Tensor) -> None:
        if not self._context.set_input_shape(tensor.name, tuple(array.shape)):
            raise ContractError(
                f"{self._spec.name}: {tensor.name} of shape {array.shape} is outside the engine's "
                f"profile ({self._reasons.take()}); export with another --profile"
            )
        if isinstance(array, CudaArray):
            pointer = self._on_device(array)
        else:
            pointer = self._copied_in(tensor.name, np.asarray(_host(array))).pointer
        self._context.set_tensor_address(tensor.name, pointer)

    def _on_device(self, array: CudaArray) -> int:
        """Return the address to read ``array`` at; an array that is not aligned is copied first."""
        self._held.append(array)
        if array.ready is not None:
            array.ready.delay(self._stream)
        if array.pointer % ALIGNMENT == 0:
            return array.pointer
        memory = self._pool.take(array.nbytes)
        self._held.append(memory)
        self._cuda.driver.memcpy_dtod_async(
            memory.pointer, array.pointer, array.nbytes, self._stream
        )
        return memory.pointer

    def _copied_in(self, name: str, array: NDArray[Any]) -> Memory:
        locked = self._page_locked(f"in {name}", array.nbytes)
        np.copyto(locked.view(array.dtype).reshape(array.shape), array)
        memory = self._pool.take(array.nbytes)
        self._held.append(memory)
        self._cuda.driver.memcpy_htod_async(memory.pointer, locked, self._stream)
        return memory

    def _bind_output(self, tensor: TensorSpec) -> CudaArray:
        shape, dtype = tuple(self._context.get_tensor_shape(tensor.name)), np.dtype(tensor.dtype)
        memory = self._pool.take(int(np.prod(shape)) * dtype.itemsize)
        self._held.append(memory)
        self._context.set_tensor_address(tensor.name, memory.pointer)
        return CudaArray(self._cuda, shape, dtype, memory, None)

    def _bind_scratch(self) -> None:
        """Give the context as much memory for intermediate tensors as these shapes need."""
        needed = int(self._context.update_device_memory_size_for_shapes())
        memory = self._pool.take(max(needed, ALIGNMENT))
        self._held.append(memory)
        self._context.set_device_memory(memory.pointer, memory.n_bytes)

    def _page_locked(self, key: str, n_bytes: int) -> NDArray[np.uint8]:
        """Return a page-locked buffer of ``n_bytes``; its memory is reused, and grows."""
        buffer = self._locked.get(key)
        if buffer is None or len(buffer) < n_bytes:
            self._locked.pop(key, None)
            buffer = self._locked[key] = self._cuda.page_locked(n_bytes)
        return buffer[:n_bytes]


class _Copies:
    """Outputs that are being copied to page-locked memory."""

    def __init__(
        self, done: Event, locked: dict[str, NDArray[np.uint8]], shapes: dict[str, Any]
    ) -> None:
        self._done = done
        self._locked = locked
        self._shapes = shapes
        self._arrays: Arrays | None = None
        self._waiting = threading.Lock()

    def wait(self) -> Arrays:
        """Return the outputs in new arrays, because the page-locked memory is reused.

        Two threads may wait: the reader, and another that needs the buffers for its batch.
        """
        with self._waiting:
            if self._arrays is None:
                self._done.synchronize()
                self._arrays = {
                    name: self._locked[name].view(dtype).reshape(shape).copy()
                    for name, (shape, dtype) in self._shapes.items()
                }
                self._locked.clear()
            return self._arrays


def _check_engine(trt: Any, engine: Any, spec: GraphSpec) -> None:
    """Raise ``ContractError`` unless names, types and fixed axes are those of ``spec``."""
    tensors = {tensor.name: tensor for tensor in [*spec.inputs, *spec.outputs]}
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    if set(names) != tensors.keys():
        raise ContractError(f"{spec.name}: the engine has {names}; export the bundle again")
    for name, tensor in tensors.items():
        axes = tuple(-1 if isinstance(axis, str) else axis for axis in tensor.axes)
        found = tuple(engine.get_tensor_shape(name))
        kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        if found != axes or kind != np.dtype(tensor.dtype):
            raise ContractError(
                f"{spec.name}: the engine's {name} is {kind} {found}; export the bundle again"
            )


def _host(array: Tensor) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.numpy()
