"""Open the graphs of a bundle as TensorRT sessions; missing engines are built first."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.session import Session
from triplex_deploy.runtime.tensorrt.build import (
    EngineSettings,
    Plan,
    build_plan,
    read_settings,
)
from triplex_deploy.runtime.tensorrt.cuda import Cuda, open_cuda
from triplex_deploy.runtime.tensorrt.manifest import Platform
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget
from triplex_deploy.runtime.tensorrt.reasons import error_collector
from triplex_deploy.runtime.tensorrt.session import import_tensorrt, open_trt_session
from triplex_deploy.runtime.tensorrt.store import EngineStore

logger = logging.getLogger(__name__)


def open_engines(
    bundle: Bundle, device: Device, stack: ExitStack, most_bytes: int | None = None
) -> dict[str, Session]:
    """Open a TensorRT session for each graph of a bundle.

    An engine that is missing is built first, which takes minutes.

    Args:
        bundle: A verified bundle.
        device: The GPU to use.
        stack: Closes the sessions when it closes.
        most_bytes: Most memory of the GPU for the tensors of all sessions together; None sets no
            limit.

    Returns:
        The sessions by graph name.

    Raises:
        BackendError: TensorRT or the GPU cannot be used, or an engine does not fit.
        BundleError: The bundle has no graphs for TensorRT.
        OutputError: A new engine cannot be written.
    """
    settings = read_settings(bundle)
    trt, cuda = import_tensorrt(), open_cuda(device.index)
    platform = Platform(cuda.name, cuda.compute_capability, str(trt.__version__))
    require_capability(settings.precision, platform)
    store = EngineStore(bundle, settings, platform)
    reasons = error_collector(trt)
    with cuda.current():
        runtime = trt.Runtime(reasons)
        runtime.engine_host_code_allowed = settings.version_compatible
    budget = MemoryBudget(most_bytes)
    sessions: dict[str, Session] = {}
    for name, spec in bundle.specs.items():
        plan = store.plan(name, _Builder(trt, cuda, spec, settings))
        profile = settings.profile(name)
        session = open_trt_session(trt, runtime, plan, spec, profile, cuda, reasons, budget)
        sessions[name] = stack.enter_context(session)
    return sessions


def require_capability(precision: str, platform: Platform) -> None:
    """Raise ``BackendError`` if the GPU has no instructions for ``precision``."""
    least = precision_of(precision).least_capability
    if platform.compute_capability < least:
        own, wanted = (".".join(map(str, pair)) for pair in (platform.compute_capability, least))
        raise BackendError(
            f"precision {precision}: {platform.gpu} has compute capability {own}, and it needs "
            f"{wanted}; export with --precision fp16 or int8"
        )


class _Builder:
    """Builds the engine of one graph on the GPU that will run it, and logs the progress."""

    def __init__(self, trt: Any, cuda: Cuda, spec: GraphSpec, settings: EngineSettings) -> None:
        self._trt = trt
        self._cuda = cuda
        self._spec = spec
        self._settings = settings

    def __call__(self, onnx: bytes, timing_cache: bytes) -> Plan:
        profile = self._settings.profile(self._spec.name)
        with self._cuda.current():
            return build_plan(
                self._trt, onnx, self._spec, profile, self._settings, timing_cache, self._report
            )

    def _report(self, phase: str, done: int, steps: int) -> None:
        logger.info("%s: %s, step %d of %d", self._spec.name, phase, done, steps)
