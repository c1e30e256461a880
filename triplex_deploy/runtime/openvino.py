"""Run graphs in OpenVINO on the CPU, in fp32 or bf16."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.install import install_command
from triplex_deploy.runtime import thread_clock
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.failures import failed_call, reason_of
from triplex_deploy.runtime.openvino_blocks import SPOTS_PER_BLOCK, BlockwiseGraph
from triplex_deploy.runtime.session import Arrays, Session, dynamic_length
from triplex_deploy.system import (
    cache_folder,
    free_address_space,
    return_freed_memory,
    usable_cores,
)

logger = logging.getLogger(__name__)

HINTS: Final = {"fp32": "f32", "bf16": "bf16"}
"""``INFERENCE_PRECISION_HINT`` by precision. Without it OpenVINO takes bf16 on some CPUs."""
LEAST_ADDRESS_SPACE: Final = 1 << 30
"""Bytes that must be free to map; with less, OpenVINO can end the process while it compiles."""
_TELEMETRY: Final = "openvino_telemetry"


class OpenVinoSession(Session):
    """One graph on the CPU; it is compiled at the first call.

    Several threads may call it at once. Each of them has an infer request of its own, and the
    outputs are written to new arrays, so nothing is copied. A graph over many spots runs in blocks
    of spots, see ``openvino_blocks``.
    """

    runs_in_caller = False

    def __init__(self, path: Path, spec: GraphSpec, options: Mapping[str, Any]) -> None:
        """Take the ONNX file and OpenVINO's properties; use ``open_session`` to build them."""
        super().__init__(spec)
        self._path = path
        self._options = dict(options)
        self._compiled: Any = None
        self._is_open = True
        self._compiling = threading.Lock()
        self._threads = thread_clock.Threads()
        self._threads_cpu_s = 0.0
        self._requests = threading.local()

    def prepare(self) -> None:
        """Compile the graph, or load it from the cache, unless that is done already.

        Raises:
            BackendError: OpenVINO is not installed, or cannot load the graph.
        """
        with self._compiling:
            self._require_open()
            if self._compiled is None:
                with thread_clock.new_threads() as self._threads:
                    self._compiled = self._compile()
                self._threads_cpu_s = self._threads.cpu_s()

    def own_cpu_s(self) -> float:
        return self._threads.cpu_s() - self._threads_cpu_s

    def _require_open(self) -> None:
        if not self._is_open:
            raise BackendError(f"{self.spec.name}: the session is closed; open the bundle again")

    def _compile(self) -> Any:
        _require_address_space(self.spec.name)
        core = import_openvino().Core()
        try:
            return core.compile_model(str(self._path), "CPU", self._options)
        except Exception as error:  # its plugins raise more than RuntimeError
            raise BackendError(
                f"{self._path}: OpenVINO cannot load it ({reason_of(error)}); "
                "compare `triplex-deploy doctor` with the versions in the bundle's README"
            ) from error

    def _run(self, inputs: Tensors) -> Arrays:
        outputs = self._new_outputs(inputs)
        if self.spec.kind == "per slide" and self._run_in_blocks(inputs, outputs):
            return outputs
        self.prepare()
        tensor_of = import_openvino().Tensor
        try:
            request = self._request()
            for name, array in outputs.items():
                request.set_tensor(name, tensor_of(array, shared_memory=True))
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            if self.spec.kind == "per slide":
                self._give_memory_back()
        except Exception as error:
            raise failed_call(self.spec.name, "OpenVINO", error) from error
        return outputs

    def _run_in_blocks(self, inputs: Tensors, outputs: Arrays) -> bool:
        """Fill ``outputs`` block by block; return False for few spots or another kind of graph."""
        if dynamic_length(self.spec, inputs) <= SPOTS_PER_BLOCK:
            return False
        with self._compiling:
            self._require_open()
            self._compiled = None  # it would lie in memory beside the parts
            self._requests = threading.local()
        _require_address_space(self.spec.name)
        openvino = import_openvino()
        options = {key: value for key, value in self._options.items() if key != "CACHE_DIR"}
        try:
            model = openvino.Core().read_model(str(self._path))
            graph = BlockwiseGraph.cut(openvino, model, options)
            if graph is None:
                return False
            (output,) = outputs.values()
            graph.run(inputs, output)
            del graph, model
            return_freed_memory()
        except Exception as error:
            raise failed_call(self.spec.name, "OpenVINO", error) from error
        return True

    def _new_outputs(self, inputs: Tensors) -> Arrays:
        length = dynamic_length(self.spec, inputs)
        return {
            tensor.name: np.empty(
                [length if isinstance(axis, str) else axis for axis in tensor.axes], tensor.dtype
            )
            for tensor in self.spec.outputs
        }

    def _request(self) -> Any:
        """Return this thread's infer request; a request serves one call at a time."""
        request = getattr(self._requests, "held", None)
        if request is None:
            request = self._requests.held = self._compiled.create_infer_request()
        return request

    def _give_memory_back(self) -> None:
        """Free the memory of intermediate results, which grows with the number of spots."""
        self._requests = threading.local()
        self._compiled.release_memory()
        return_freed_memory()

    def close(self) -> None:
        self._is_open = False
        self._compiled = None
        self._requests = threading.local()


def open_session(
    path: Path,
    spec: GraphSpec,
    precision: str = "fp32",
    threads: int | None = None,
    streams: int = 1,
) -> OpenVinoSession:
    """Return a session of one graph.

    Args:
        path: ONNX file of the graph.
        spec: Contract of the graph.
        precision: ``fp32`` or ``bf16``: the type of products in layers that are not quantized.
        threads: CPU threads of all calls together; None for one per usable core.
        streams: Number of calls that run side by side, with ``threads / streams`` threads each.
    """
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "ENABLE_CPU_PINNING": False,  # processes side by side would share the first cores
        **_compiled_cache(),
    }
    return OpenVinoSession(path, spec, options)


def _compiled_cache() -> dict[str, str]:
    """Return the property that keeps compiled graphs for later runs.

    OpenVINO takes what lies there without a question, so it must not be a folder of others.
    """
    folder = cache_folder() / "openvino"
    if is_own_folder(folder.parent) and is_own_folder(folder):
        return {"CACHE_DIR": str(folder)}
    logger.warning("%s: not used, as others may write into it; run `chmod o-w` on it", folder)
    return {}


def open_graphs(
    bundle: Bundle, stack: ExitStack, precision: str, threads: int | None
) -> dict[str, Session]:
    """Open a session for each graph of a bundle; each call may use several threads.

    Args:
        bundle: A verified bundle.
        stack: Closes the sessions when it closes.
        precision: See ``open_session``.
        threads: See ``open_session``.

    Raises:
        BackendError: OpenVINO is not installed.
    """
    import_openvino()
    return _open(bundle, stack, precision, threads, 1, bundle.specs)


def open_single_threaded(
    bundle: Bundle, sessions: Mapping[str, Session], stack: ExitStack, precision: str
) -> dict[str, Session]:
    """Open sessions that workers call at once, each call in one thread.

    The session of a graph that runs per slide is called once, so that of ``sessions`` is kept.
    """
    many = {name: spec for name, spec in bundle.specs.items() if spec.kind != "per slide"}
    cores = usable_cores()
    return {**sessions, **_open(bundle, stack, precision, cores, cores, many)}


def _open(
    bundle: Bundle,
    stack: ExitStack,
    precision: str,
    threads: int | None,
    streams: int,
    specs: Mapping[str, GraphSpec],
) -> dict[str, Session]:
    sessions: dict[str, Session] = {}
    for name, spec in specs.items():
        path = bundle.path / bundle.entry(name, "onnxruntime").file
        session = open_session(path, spec, precision, threads, streams)
        sessions[name] = stack.enter_context(session)
    return sessions


def _require_address_space(graph: str) -> None:
    """Raise ``BackendError`` where a narrow limit would let OpenVINO crash while it compiles."""
    free = free_address_space()
    if free is not None and free < LEAST_ADDRESS_SPACE:
        raise BackendError(
            f"{graph}: OpenVINO needs {LEAST_ADDRESS_SPACE >> 20} MB of free address space, and "
            f"this process may map {free >> 20} MB more; raise the limit (`ulimit -v`), or use "
            "--backend onnxruntime"
        )


def import_openvino() -> Any:
    """Return the openvino module, without its telemetry: slides are patients' data.

    Raises:
        BackendError: It is not installed; the message has the command that installs it.
    """
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise BackendError(
            f"openvino is not installed ({error}); run `{install_command('cpu')}`"
        ) from error
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package that sends usage data, so that openvino imports its empty stand-in."""
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
