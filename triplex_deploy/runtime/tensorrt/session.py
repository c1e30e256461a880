"""TensorRT engines as sessions: two lanes each, so that copies overlap computing.

Written against the signatures of TensorRT 11 and pycuda, and tested against stand-ins of both; see
docs/gpu-servers.md for what has run on a GPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device_array import Pending, Tensor, Tensors
from triplex_deploy.runtime.session import Arrays, Session, check_inputs, dynamic_length
from triplex_deploy.runtime.tensorrt.cuda import ALIGNMENT, Cuda, CudaArray, Memory, MemoryPool
from triplex_deploy.runtime.tensorrt.profiles import Extent

logger = logging.getLogger(__name__)


LANES: Final = 2
"""Batches under way at once: one is copied while the other is computed."""
MAJOR: Final = 11
"""The first TensorRT whose networks are always strongly typed, as our graphs are written."""


class TrtSession(Session):
    """One engine; open it with ``open_trt_session``."""

    def __init__(
        self, spec: GraphSpec, extent: Extent, loaded: _Loaded, lanes: list[_Lane], cuda: Cuda
    ) -> None:
        super().__init__(spec)
        self._extent = extent
        self._loaded: _Loaded | None = loaded
        self._lanes = deque(lanes)
        self._cuda = cuda
        self._limit = BatchLimit(spec, extent.most)
        self._lock = threading.RLock()

    def _run(self, inputs: Tensors) -> Arrays:
        self._check_extent(inputs)
        return self._limit.run(inputs, self._run_pieces)

    def run_staged(self, inputs: Tensors) -> tuple[Arrays, dict[str, float]]:
        """As ``run`` for a batch within the profile, with seconds of copies and of computing."""
        check_inputs(self.spec, inputs)
        self._check_extent(inputs)
        with self._lock, self._cuda.current():
            return self._next_lane().run_staged(inputs)

    def _run_pieces(self, pieces: list[Tensors]) -> list[Arrays]:
        """Each piece in turn, the next one under way while one is awaited."""
        outputs: list[Arrays] = []
        waiting: deque[Pending] = deque()
        for piece in pieces:
            if len(waiting) == LANES:
                outputs.append(waiting.popleft().result())
            waiting.append(self._start(piece))
        return outputs + [pending.result() for pending in waiting]

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        self._check_extent(inputs)
        return self._limit.run_kept(inputs, self._keep, self._run_pieces)

    def _keep(self, inputs: Tensors) -> dict[str, Any]:
        with self._lock, self._cuda.current():
            return dict(self._next_lane().start(inputs))

    def _upload(self, array: NDArray[Any]) -> Tensor:
        with self._lock, self._cuda.current():
            return self._next_lane().upload(array)

    def _submit(self, inputs: Tensors) -> Pending:
        most = self._limit.most
        self._check_extent(inputs)
        if most is not None and dynamic_length(self.spec, inputs) > most:
            return super()._submit(inputs)
        return self._start(inputs)

    def _start(self, inputs: Tensors) -> Pending:
        with self._lock, self._cuda.current():
            lane = self._next_lane()
            copies = lane.copy_out(lane.start(inputs))

        def collected() -> Arrays:
            with self._cuda.current():
                copies.settle()  # unlocked: another thread may start its batch meanwhile
                with self._lock:
                    return lane.collect(copies)

        return Pending(collected)

    def _next_lane(self) -> _Lane:
        if not self._lanes:
            raise BackendError(f"{self.spec.name}: the session is closed; open the bundle again")
        lane = self._lanes[0]
        self._lanes.rotate(-1)
        lane.finish()
        return lane

    def _check_extent(self, inputs: Tensors) -> None:
        """Refuse what no cutting brings into the engine's profile."""
        length, axis = dynamic_length(self.spec, inputs), self.spec.batch_axis
        too_long = axis != "batch" and length > self._extent.most
        if too_long or length < self._extent.least:
            raise ContractError(
                f"{self.spec.name}: {length} {axis}, its engine was built for {self._extent}; "
                f"export with --profile {axis}=MIN:TYPICAL:MAX around it, "
                "or use --backend onnxruntime"
            )

    def close(self) -> None:
        """Wait for the lanes, then drop contexts before the engine; the runtime goes last."""
        with self._lock, self._cuda.current():
            while self._lanes:
                self._lanes.popleft().close()
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


@dataclass
class _Loaded:
    """An engine, the runtime that it needs as long as it lives, and the memory it uses."""

    engine: Any
    runtime: Any
    pool: MemoryPool

    def close(self) -> None:
        self.engine = None
        self.runtime = None
        self.pool.close()


class _Lane:
    """A stream with its execution context and buffers; it holds all that its work touches."""

    def __init__(self, spec: GraphSpec, context: Any, cuda: Cuda, pool: MemoryPool) -> None:
        self._spec = spec
        self._context = context
        self._cuda = cuda
        self._pool = pool
        self._stream = cuda.driver.Stream()
        self._locked: dict[str, NDArray[np.uint8]] = {}
        self._held: list[object] = []
        self._copies: _Copies | None = None

    def start(self, inputs: Tensors) -> dict[str, CudaArray]:
        """Queue copying in and computing; returns the outputs, which become ready later."""
        try:
            outputs = self._bind(inputs)
            self._launch()
        except BaseException:
            self.finish()  # what was queued may still use the buffers
            raise
        ready = self._cuda.event(self._stream)
        for output in outputs.values():
            output.ready = ready
        return outputs

    def upload(self, array: NDArray[Any]) -> CudaArray:
        """Queue copying in what graphs will take; it becomes ready later."""
        memory = self._copied_in("upload", array)
        return CudaArray(
            self._cuda, array.shape, array.dtype, memory, self._cuda.event(self._stream)
        )

    def run_staged(self, inputs: Tensors) -> tuple[Arrays, dict[str, float]]:
        """Run with a wait after each stage; returns the outputs and the seconds of each."""
        times = [time.perf_counter()]
        try:
            outputs = self._bind(inputs)
            self._stream.synchronize()
            times.append(time.perf_counter())
            self._launch()
            self._stream.synchronize()
            times.append(time.perf_counter())
            arrays = self.collect(self.copy_out(outputs))
        except BaseException:
            self.finish()
            raise
        times.append(time.perf_counter())
        names = ("host_to_device", "compute", "device_to_host")
        return arrays, {name: times[i + 1] - times[i] for i, name in enumerate(names)}

    def _bind(self, inputs: Tensors) -> dict[str, CudaArray]:
        """Queue copying in; returns where the outputs will be."""
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
            raise BackendError(
                f"{self._spec.name}: TensorRT did not start the engine; "
                "run `triplex-deploy doctor`, or use --backend onnxruntime"
            )

    def copy_out(self, outputs: dict[str, CudaArray]) -> _Copies:
        """Queue copying ``outputs`` to the CPU, to be collected later."""
        locked = {}
        for name, output in outputs.items():
            locked[name] = self._page_locked(f"out {name}", output.nbytes)
            self._cuda.driver.memcpy_dtoh_async(locked[name], output.pointer, self._stream)
        shapes = {name: (output.shape, output.dtype) for name, output in outputs.items()}
        self._copies = _Copies(self._cuda.event(self._stream), locked, shapes)
        return self._copies

    def collect(self, copies: _Copies) -> Arrays:
        """Wait for ``copies``; what the work held is given back at once if it was the last."""
        arrays = copies.wait()
        if copies is self._copies:
            self.finish()
        return arrays

    def finish(self) -> None:
        """Wait until the lane's work is done; an unread result is put aside for its owner."""
        if self._copies is not None:
            self._copies.wait()
            self._copies = None
        self._stream.synchronize()
        self._held.clear()

    def close(self) -> None:
        self.finish()
        self._context = None
        self._locked.clear()

    def _bind_input(self, tensor: TensorSpec, array: Tensor) -> None:
        if not self._context.set_input_shape(tensor.name, tuple(array.shape)):
            raise ContractError(
                f"{self._spec.name}: {tensor.name} of shape {array.shape} is outside the engine's "
                "profile; export with another --profile"
            )
        if isinstance(array, CudaArray):
            pointer = self._on_device(array)
        else:
            pointer = self._copied_in(tensor.name, np.asarray(_host(array))).pointer
        self._context.set_tensor_address(tensor.name, pointer)

    def _on_device(self, array: CudaArray) -> int:
        """Where to read ``array``: in place, or where a row begins off alignment, in a copy."""
        self._held.append(array)
        self._stream.wait_for_event(array.ready)
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
        """Memory for what lies between the layers, as much as these shapes need."""
        needed = int(self._context.update_device_memory_size_for_shapes())
        memory = self._pool.take(max(needed, ALIGNMENT))
        self._held.append(memory)
        self._context.set_device_memory(memory.pointer, memory.n_bytes)

    def _page_locked(self, key: str, n_bytes: int) -> NDArray[np.uint8]:
        """A page-locked buffer of exactly ``n_bytes``, its memory kept and grown."""
        buffer = self._locked.get(key)
        if buffer is None or len(buffer) < n_bytes:
            self._locked.pop(key, None)
            buffer = self._locked[key] = self._cuda.page_locked(n_bytes)
        return buffer[:n_bytes]


class _Copies:
    """Outputs on their way to page-locked memory."""

    def __init__(
        self, done: Any, locked: dict[str, NDArray[np.uint8]], shapes: dict[str, Any]
    ) -> None:
        self._done = done
        self._locked = locked
        self._shapes = shapes
        self._arrays: Arrays | None = None

    def settle(self) -> None:
        """Wait until the outputs are there."""
        self._done.synchronize()

    def wait(self) -> Arrays:
        """The outputs in memory of their own, since the page-locked one is used again."""
        if self._arrays is None:
            self.settle()
            self._arrays = {
                name: self._locked[name].view(dtype).reshape(shape).copy()
                for name, (shape, dtype) in self._shapes.items()
            }
            self._locked.clear()
        return self._arrays


def open_trt_session(
    trt: Any, runtime: Any, plan: bytes, spec: GraphSpec, extent: Extent, cuda: Cuda
) -> TrtSession:
    """Load a plan whose manifest was checked.

    Raises ``BackendError`` if TensorRT does not take the plan, ``ContractError`` if its tensors
    are not those of the contract.
    """
    with cuda.current():
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{spec.name}: TensorRT {trt.__version__} refuses the engine; "
                "delete the bundle's engines folder to have it built again"
            )
        _check_engine(trt, engine, spec)
        pool = MemoryPool(cuda)
        lanes = []
        for _ in range(LANES):
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.create_execution_context(strategy)
            if context is None:
                raise BackendError(
                    f"{spec.name}: TensorRT has no memory to run the engine; free the GPU's memory"
                )
            lanes.append(_Lane(spec, context, cuda, pool))
        return TrtSession(spec, extent, _Loaded(engine, runtime, pool), lanes, cuda)


def _check_engine(trt: Any, engine: Any, spec: GraphSpec) -> None:
    """The engine's tensors must have the contract's names, types and fixed axes."""
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


def import_tensorrt() -> Any:
    """The ``tensorrt`` module; raises ``BackendError`` that says what is missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        text = " ".join(str(error).split())
        missing = "its libraries" if "libnvinfer" in text else "it"
        raise BackendError(
            f"TensorRT cannot be used: {missing} cannot be loaded ({text}); "
            "run `pip install 'triplex-deploy[gpu]'`, see docs/gpu-servers.md"
        ) from error
    major = int(str(tensorrt.__version__).partition(".")[0])
    if major < MAJOR:
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is too old; "
            f"run `pip install 'tensorrt>={MAJOR}'`, or use --backend onnxruntime"
        )
    return tensorrt


def _host(array: Tensor) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.numpy()
