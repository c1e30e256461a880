"""A stand-in for TensorRT 11 whose engines compute with ONNX Runtime on the stand-in GPU.

It is as strict as the original: every call needs a current context, memory must be allocated, and
an engine's work is queued on a stream. An engine's plan holds its ONNX graph.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.gpu.stand_in import StandInGpu
from triplex_deploy.contract import GraphSpec

MAGIC = b"STANDIN"


class StandInTensorrt:
    """Has the names of the module ``tensorrt`` 11: builder, runtime, engine, context."""

    __version__ = "11.4.0.106"

    def __init__(self, gpu: StandInGpu, scratch_bytes: int = 1024) -> None:
        self.gpu = gpu
        self.scratch_bytes = scratch_bytes
        self.builds: list[dict[str, Any]] = []
        self.build_errors: list[str] = []
        self.run_errors: list[str] = []
        self.lengths: dict[frozenset[str], set[int]] = {}
        self.logger: Any = None
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
        self.Builder = lambda logger: StandInBuilder(trt, logger)
        self.OnnxParser = StandInParser
        self.Runtime = self.runtime

    def runtime(self, logger: Any) -> Any:
        self.logger = logger
        return SimpleNamespace(
            deserialize_cuda_engine=self.deserialize, engine_host_code_allowed=False
        )

    def refuse(self, reason: str) -> None:
        """Log an error as TensorRT does before a call returns that it failed."""
        self.logger.log(self.ILogger.Severity.ERROR, reason)

    def deserialize(self, plan: bytes) -> StandInEngine | None:
        self.gpu.require_context()
        if not plan.startswith(MAGIC) or not plan.endswith(MAGIC):
            self.refuse("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (bad magic)")
            return None
        header, _, onnx = plan[len(MAGIC) : -len(MAGIC)].partition(b"\n")
        return StandInEngine(self, json.loads(header), onnx)

    def lengths_of(self, spec: GraphSpec) -> set[int]:
        """Return the numbers of rows that the engine of a graph was run with."""
        names = frozenset(tensor.name for tensor in (*spec.inputs, *spec.outputs))
        return self.lengths.get(names, set())


class StandInParser:
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


class StandInBuilder:
    def __init__(self, trt: StandInTensorrt, logger: Any) -> None:
        self.trt = trt
        self.logger = logger

    def create_network(self, flags: int = 0) -> Any:
        network = SimpleNamespace(num_inputs=0)
        network.get_input = lambda i: network.inputs[i]
        return network

    def create_builder_config(self) -> StandInConfig:
        return StandInConfig()

    def create_optimization_profile(self) -> StandInProfile:
        return StandInProfile()

    def build_serialized_network(self, network: Any, config: StandInConfig) -> bytes | None:
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


class StandInProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Any, typical: Any, most: Any) -> None:
        self.shapes[name] = [list(least), list(typical), list(most)]


class StandInConfig:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[StandInProfile] = []
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

    def add_optimization_profile(self, profile: StandInProfile) -> int:
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


class StandInEngine:
    def __init__(
        self, trt: StandInTensorrt, profile: dict[str, list[list[int]]], onnx: bytes
    ) -> None:
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

    def create_execution_context(self, strategy: str) -> StandInExecutionContext:
        self.trt.gpu.require_context()
        assert strategy == "USER_MANAGED"
        return StandInExecutionContext(self)


class StandInExecutionContext:
    def __init__(self, engine: StandInEngine) -> None:
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
        trt, session = self.engine.trt, self.engine.session
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch
        needed = self.update_device_memory_size_for_shapes()
        length = next(iter(shapes.values()))[0]
        trt.lengths.setdefault(frozenset(self.engine.tensors), set()).add(length)
        if trt.run_errors:
            trt.refuse(trt.run_errors.pop(0))
            return False

        def compute() -> None:
            assert scratch[1] >= needed
            trt.gpu.view(*scratch)[:] = 0xEE
            inputs = {}
            for tensor in session.get_inputs():
                dtype = np.dtype(self.engine.get_tensor_dtype(tensor.name))
                n_bytes = int(np.prod(shapes[tensor.name])) * dtype.itemsize
                raw = trt.gpu.view(addresses[tensor.name], n_bytes)
                inputs[tensor.name] = raw.view(dtype).reshape(shapes[tensor.name]).copy()
            names = [tensor.name for tensor in session.get_outputs()]
            for name, array in zip(names, session.run(names, inputs), strict=True):
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                trt.gpu.view(addresses[name], array.nbytes)[:] = flat

        return trt.gpu.launch(stream_handle, compute) == 0
