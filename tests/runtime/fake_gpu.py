"""Stand-ins for pycuda and TensorRT that compute on the CPU and are as strict as the originals.

Work on a stream is done only when a caller waits for it. Memory can be read at its address while it
is allocated. Every call needs a current context. An engine's plan holds its ONNX graph,
which ONNX Runtime computes.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

MAGIC = b"FAKEPLAN"


class FakeGpu:
    """Stands in for a GPU; ``driver`` has the names of ``pycuda.driver``."""

    def __init__(self, name: str = "NVIDIA Test 1", total_bytes: int = 1 << 30) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.memory: dict[int, np.ndarray] = {}
        self.locked: list[np.ndarray] = []
        self.next_address = 1 << 20
        self.current = threading.local()
        self.at_work = threading.RLock()
        self.streams: dict[int, FakeStream] = {}
        self.log: list[str] = []
        self.driver = self._driver()

    @property
    def used_bytes(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def require_context(self) -> None:
        assert getattr(self.current, "depth", 0) > 0, "CUDA called without a current context"

    def view(self, address: int, n_bytes: int) -> np.ndarray:
        """Return the bytes at an address; memory that is not allocated is an error, as on a GPU."""
        bases = sorted(self.memory)
        base = bases[bisect.bisect_right(bases, address) - 1] if bases else 0
        block = self.memory.get(base)
        begin = address - base
        if block is None or begin < 0 or begin + n_bytes > len(block):
            raise RuntimeError(f"illegal memory access at {address}")
        return block[begin : begin + n_bytes]

    def _driver(self) -> Any:
        gpu = self

        class OutOfMemoryError(Exception):
            pass

        class Allocation:
            def __init__(self, address: int) -> None:
                self.address = address

            def __int__(self) -> int:
                return self.address

            def free(self) -> None:
                gpu.require_context()
                del gpu.memory[self.address]

        def mem_alloc(n_bytes: int) -> Allocation:
            gpu.require_context()
            if gpu.used_bytes + n_bytes > gpu.total_bytes:
                raise OutOfMemoryError("cuMemAlloc failed: out of memory")
            address = gpu.next_address
            gpu.next_address += -(-n_bytes // 256) * 256 + 256
            gpu.memory[address] = np.full(n_bytes, 0xAB, np.uint8)
            return Allocation(address)

        def pagelocked_empty(shape: int, dtype: Any) -> np.ndarray:
            gpu.require_context()
            gpu.locked.append(np.full(shape, 0xCD, dtype))
            return gpu.locked[-1]

        def require_locked(host: np.ndarray) -> None:
            assert any(np.shares_memory(host, locked) for locked in gpu.locked)

        def htod_async(address: int, host: np.ndarray, stream: FakeStream) -> None:
            require_locked(host)

            def copy() -> None:
                gpu.view(address, host.nbytes)[:] = host.view(np.uint8).ravel()

            stream.add("htod", copy)

        def dtoh_async(host: np.ndarray, address: int, stream: FakeStream) -> None:
            require_locked(host)

            def copy() -> None:
                host.view(np.uint8).ravel()[:] = gpu.view(address, host.nbytes)

            stream.add("dtoh", copy)

        def dtod_async(into: int, source: int, n_bytes: int, stream: FakeStream) -> None:
            def copy() -> None:
                gpu.view(into, n_bytes)[:] = gpu.view(source, n_bytes)

            stream.add("dtod", copy)

        def dtoh(host: np.ndarray, address: int) -> None:
            gpu.require_context()
            host.view(np.uint8).reshape(-1)[:] = gpu.view(address, host.nbytes)

        return SimpleNamespace(
            Error=RuntimeError,
            MemoryError=OutOfMemoryError,
            event_flags=SimpleNamespace(DISABLE_TIMING=2),
            Event=lambda flags=0: FakeEvent(gpu),
            Stream=lambda: FakeStream(gpu),
            mem_alloc=mem_alloc,
            mem_get_info=lambda: (gpu.total_bytes - gpu.used_bytes, gpu.total_bytes),
            pagelocked_empty=pagelocked_empty,
            memcpy_htod_async=htod_async,
            memcpy_dtoh_async=dtoh_async,
            memcpy_dtod_async=dtod_async,
            memcpy_dtoh=dtoh,
        )


class FakeContext:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def push(self) -> None:
        self.gpu.current.depth = getattr(self.gpu.current, "depth", 0) + 1

    def pop(self) -> None:
        self.gpu.require_context()
        self.gpu.current.depth -= 1


class FakeDevice:
    def __init__(self, gpu: FakeGpu, compute_capability: tuple[int, int] = (9, 0)) -> None:
        self.gpu = gpu
        self.capability = compute_capability

    def name(self) -> str:
        return self.gpu.name

    def compute_capability(self) -> tuple[int, int]:
        return self.capability


class FakeStream:
    """Runs its work in order when a caller waits for it."""

    def __init__(self, gpu: FakeGpu) -> None:
        gpu.require_context()
        self.gpu = gpu
        self.work: list[tuple[str, Callable[[], None]]] = []
        self.done = 0
        self.handle = id(self)
        gpu.streams[self.handle] = self

    def add(self, name: str, do: Callable[[], None]) -> None:
        self.gpu.require_context()
        self.gpu.log.append(f"queue {name}")
        self.work.append((name, do))

    def run_to(self, end: int) -> None:
        with self.gpu.at_work:
            while self.done < end:
                name, do = self.work[self.done]
                self.done += 1
                do()
                self.gpu.log.append(f"do {name}")

    def synchronize(self) -> None:
        self.gpu.require_context()
        self.run_to(len(self.work))

    def wait_for_event(self, event: FakeEvent) -> None:
        self.add("wait", event.happen)


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.stream: FakeStream | None = None
        self.end = 0

    def record(self, stream: FakeStream) -> None:
        self.gpu.require_context()
        self.stream, self.end = stream, len(stream.work)

    def happen(self) -> None:
        assert self.stream is not None
        self.stream.run_to(self.end)

    def synchronize(self) -> None:
        self.gpu.require_context()
        self.happen()


class FakeTensorrt:
    """Has the names of the module ``tensorrt`` 11: builder, runtime, engine, context."""

    __version__ = "11.4.0.106"

    def __init__(self, gpu: FakeGpu, scratch_bytes: int = 1024) -> None:
        self.gpu = gpu
        self.scratch_bytes = scratch_bytes
        self.builds: list[dict[str, Any]] = []
        self.build_errors: list[str] = []
        trt = self

        class Logger:
            class Severity:
                INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

            def __init__(self) -> None:
                pass

        self.ILogger = Logger
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
        self.BuilderFlag = SimpleNamespace(
            TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE", REFIT="REFIT"
        )
        self.HardwareCompatibilityLevel = SimpleNamespace(
            AMPERE_PLUS="AMPERE_PLUS", SAME_COMPUTE_CAPABILITY="SAME_COMPUTE_CAPABILITY"
        )
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
        self.nptype = lambda dtype: np.dtype(dtype).type
        self.Builder = lambda logger: FakeBuilder(trt, logger)
        self.OnnxParser = FakeParser
        self.Runtime = lambda logger: SimpleNamespace(
            deserialize_cuda_engine=trt.deserialize, engine_host_code_allowed=False
        )

    def deserialize(self, plan: bytes) -> FakeEngine | None:
        self.gpu.require_context()
        if not plan.startswith(MAGIC) or not plan.endswith(MAGIC):
            return None
        header, _, onnx = plan[len(MAGIC) : -len(MAGIC)].partition(b"\n")
        return FakeEngine(self, json.loads(header), onnx)


class FakeParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        try:
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001
            self.num_errors = 1
            return False
        self.network.onnx = model
        self.network.inputs = session.get_inputs()
        self.network.num_inputs = len(session.get_inputs())
        return True

    def get_error(self, index: int) -> str:
        return f"INVALID_NODE {index}"


class FakeBuilder:
    def __init__(self, trt: FakeTensorrt, logger: Any) -> None:
        self.trt = trt
        self.logger = logger

    def create_network(self, flags: int = 0) -> Any:
        network = SimpleNamespace(num_inputs=0)
        network.get_input = lambda i: network.inputs[i]
        return network

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig()

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()

    def build_serialized_network(self, network: Any, config: FakeConfig) -> bytes | None:
        self.trt.gpu.require_context()
        self.trt.builds.append(config.record())
        if self.trt.build_errors:
            severity = self.trt.ILogger.Severity.ERROR
            self.logger.log(severity, self.trt.build_errors.pop(0))
            return None
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building", None, 2)
            config.progress_monitor.phase_start("Inner", "Building", 9)
            assert config.progress_monitor.step_complete("Inner", 0)
            assert config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
        header = json.dumps(config.profiles[0].shapes).encode()
        return MAGIC + header + b"\n" + network.onnx + MAGIC


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Any, typical: Any, most: Any) -> None:
        self.shapes[name] = [list(least), list(typical), list(most)]


class FakeConfig:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[FakeProfile] = []
        self.workspace: int | None = None
        self.hardware_compatibility_level = "NONE"
        self.profiling_verbosity = "LAYER_NAMES_ONLY"
        self.progress_monitor: Any = None
        self.timing_cache = b""

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        assert pool == "WORKSPACE"
        self.workspace = size

    def add_optimization_profile(self, profile: FakeProfile) -> int:
        for least, typical, most in profile.shapes.values():
            if not all(a <= b <= c for a, b, c in zip(least, typical, most, strict=True)):
                return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(content=content, serialize=lambda: content + b"t")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.content == b"mismatched":
            return False
        self.timing_cache = cache.content
        return True

    def record(self) -> dict[str, Any]:
        return {
            "flags": set(self.flags),
            "workspace": self.workspace,
            "hardware": self.hardware_compatibility_level,
            "timing_cache": self.timing_cache,
            "profile": self.profiles[0].shapes,
        }


class FakeEngine:
    def __init__(self, trt: FakeTensorrt, profile: dict[str, list[list[int]]], onnx: bytes) -> None:
        self.trt = trt
        self.profile = profile
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx, options)
        self.tensors = {
            t.name: t for t in [*self.session.get_inputs(), *self.session.get_outputs()]
        }
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(a, str) else a for a in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> str:
        kind = self.tensors[name].type.removeprefix("tensor(").removesuffix(")")
        return {"float": "float32"}.get(kind, kind)

    def create_execution_context(self, strategy: str) -> FakeExecutionContext:
        self.trt.gpu.require_context()
        assert strategy == "USER_MANAGED"
        return FakeExecutionContext(self)


class FakeExecutionContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profile[name]
        fits = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if fits:
            self.shapes[name] = shape
        return fits

    def infer_shapes(self) -> list[str]:
        return [i.name for i in self.engine.session.get_inputs() if i.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        length = next(iter(self.shapes.values()))[0]
        return tuple(length if a == -1 else a for a in self.engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0, f"{name} is not aligned"
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        length = next(iter(self.shapes.values()))[0]
        return self.engine.trt.scratch_bytes * length

    def set_device_memory(self, address: int, n_bytes: int) -> None:
        self.scratch = (address, n_bytes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu, session = self.engine.trt.gpu, self.engine.session
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch
        needed = self.update_device_memory_size_for_shapes()

        def compute() -> None:
            assert scratch[1] >= needed
            gpu.view(*scratch)[:] = 0xEE
            inputs = {}
            for tensor in session.get_inputs():
                dtype = np.dtype(self.engine.get_tensor_dtype(tensor.name))
                n_bytes = int(np.prod(shapes[tensor.name])) * dtype.itemsize
                raw = gpu.view(addresses[tensor.name], n_bytes)
                inputs[tensor.name] = raw.view(dtype).reshape(shapes[tensor.name]).copy()
            names = [tensor.name for tensor in session.get_outputs()]
            for name, array in zip(names, session.run(names, inputs), strict=True):
                gpu.view(addresses[name], array.nbytes)[:] = array.view(np.uint8).ravel()

        gpu.streams[stream_handle].add("compute", compute)
        return True
