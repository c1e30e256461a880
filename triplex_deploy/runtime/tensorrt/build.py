"""Build a TensorRT engine from ONNX bytes with the settings of a bundle.

The library is an argument: ``tensorrt`` and ``tensorrt_rtx`` offer the same builder, so the code
that builds engines on a GPU can be tested on a machine without a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BackendError, BundleError, ConfigError
from triplex_deploy.runtime.failures import is_about_memory
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange
from triplex_deploy.runtime.tensorrt.reasons import error_collector, first_reason

logger = logging.getLogger(__name__)


SETTINGS: Final = "tensorrt.json"
Compatibility = Literal["none", "same_compute_capability", "ampere_plus"]


class EngineSettings(BaseModel):
    """How every engine of a bundle is built; the precision itself is in the ONNX graphs.

    The field names are the keys of ``tensorrt.json`` in a bundle.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    precision: str
    """A name of ``contract.precision.PRECISIONS``; it is part of the engines' folder name."""
    profiles: dict[str, tuple[int, int, int]]
    """``(min, opt, max)`` of each graph's dynamic axis; ``profile`` returns it as a range."""
    version_compatible: bool = False
    """Build engines that also run with later TensorRT of the same major version; slower."""
    hardware: Compatibility = "none"
    """Build engines that also run on these other GPUs; slower."""
    refit: bool = False
    """Build engines that accept new weights without a new build."""
    workspace_gb: float | None = None
    """Maximum scratch memory while building, in GiB; None leaves it to TensorRT."""

    def profile(self, graph: str) -> ProfileRange:
        """Return the profile of a graph; raises ``ConfigError`` if its lengths are not ordered."""
        return ProfileRange(*self.profiles[graph])

    def to_json(self) -> str:
        """Return the content of ``tensorrt.json``."""
        return self.model_dump_json(indent=2) + "\n"


def read_settings(bundle: Bundle) -> EngineSettings:
    """Read the engine settings of a verified bundle.

    Raises ``BundleError`` if the bundle was exported without TensorRT graphs, or if the settings
    do not fit the bundle's graphs.
    """
    path = bundle.path / SETTINGS
    if SETTINGS not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no graphs for TensorRT; "
            "export the checkpoint with --format tensorrt, or use --backend onnxruntime"
        )
    try:
        settings = EngineSettings.model_validate_json(path.read_text(encoding="utf-8"))
        for graph in settings.profiles:
            settings.profile(graph)
    except (OSError, ValidationError, ConfigError) as error:
        first = " ".join(str(error).split())
        raise BundleError(f"{path}: cannot be used ({first}); export the bundle again") from error
    missing = bundle.specs.keys() ^ settings.profiles.keys()
    if missing:
        raise BundleError(f"{path}: no profile fits {min(missing)}; export the bundle again")
    return settings


def write_settings(folder: Path, settings: EngineSettings) -> Path:
    """Write ``tensorrt.json`` into ``folder`` and return its path."""
    path = folder / SETTINGS
    path.write_text(settings.to_json(), encoding="utf-8")
    return path


OnPhase = Callable[[str, int, int], None]
"""Called after every step of a build with the phase, the steps done and the number of steps."""

WORKSPACE_RETRIES: Final = 3


@dataclass(frozen=True)
class Plan:
    """A serialized engine, TensorRT's "plan"."""

    engine: bytes
    """The plan itself."""
    timing_cache: bytes
    """TensorRT's timing cache; it shortens the next build of a similar engine."""


def build_plan(
    trt: Any,
    onnx: bytes,
    spec: GraphSpec,
    profile_range: ProfileRange,
    settings: EngineSettings,
    timing_cache: bytes = b"",
    on_phase: OnPhase | None = None,
    compute_capability: str | None = None,
) -> Plan:
    """Build the engine of one graph.

    If memory runs out, the build is repeated with half the workspace, at most three times.

    Args:
        trt: The library, ``tensorrt`` or ``tensorrt_rtx``.
        onnx: The graph's ONNX file.
        spec: The graph's contract.
        profile_range: Lengths of the dynamic axis that the engine takes.
        settings: How to build.
        timing_cache: The timing cache of an earlier build, empty if there is none.
        on_phase: Called after every step.
        compute_capability: A GPU to build for that this machine need not have, such as "SM89";
            only ``tensorrt_rtx`` can do this.

    Returns:
        The engine, with the timing cache to give to the next build.

    Raises:
        BackendError: TensorRT refuses the graph, or builds no engine; the message quotes it.
    """
    collector = error_collector(trt)
    for workspace in _workspaces(settings.workspace_gb):
        collector.errors.clear()
        builder = trt.Builder(collector)
        network = _parse(trt, builder, onnx, spec, collector)
        config = _configure(trt, builder, spec, profile_range, settings, workspace)
        if compute_capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
        cache = _attach_timing_cache(config, timing_cache)
        if on_phase is not None:
            config.progress_monitor = _monitor(trt, on_phase)
        plan = builder.build_serialized_network(network.definition, config)
        if plan is not None:
            return Plan(bytes(memoryview(plan)), bytes(memoryview(cache.serialize())))
        if not _ran_out_of_memory(collector.errors):
            break
        logger.warning("%s: memory ran out while building, trying a smaller workspace", spec.name)
    remedy = (
        "free GPU memory, or export with a smaller --profile"
        if _ran_out_of_memory(collector.errors)
        else "compare `triplex-deploy doctor` with docs/gpu-servers.md, or use another --precision"
    )
    raise BackendError(
        f"{spec.name}: TensorRT built no engine ({first_reason(collector.errors)}); {remedy}"
    )


@dataclass(frozen=True)
class _Network:
    """A parsed network, and its parser, which owns memory that the network uses."""

    definition: Any
    parser: Any


def _parse(trt: Any, builder: Any, onnx: bytes, spec: GraphSpec, collector: Any) -> _Network:
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, collector)
    if not parser.parse(onnx):
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(
            f"{spec.name}: TensorRT cannot read the graph ({first_reason(reasons)}); "
            "export the checkpoint with this release"
        )
    names = {definition.get_input(i).name for i in range(definition.num_inputs)}
    if names != {tensor.name for tensor in spec.inputs}:
        raise BackendError(
            f"{spec.name}: the graph takes {sorted(names)}, not the inputs of the contract; "
            "export the checkpoint with this release"
        )
    return _Network(definition, parser)


def _configure(
    trt: Any,
    builder: Any,
    spec: GraphSpec,
    profile_range: ProfileRange,
    settings: EngineSettings,
    workspace: int | None,
) -> Any:
    config = builder.create_builder_config()
    if not precision_of(settings.precision).allows_tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if settings.hardware != "none":
        level = getattr(trt.HardwareCompatibilityLevel, settings.hardware.upper())
        config.hardware_compatibility_level = level
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        profile.set_shape(tensor.name, *profile_range.shapes(tensor))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(
            f"{spec.name}: TensorRT refuses the profile {profile_range}; "
            "export with another --profile"
        )
    return config


def _attach_timing_cache(config: Any, content: bytes) -> Any:
    """Attach and return the cache of ``content``, or an empty cache if TensorRT refuses it."""
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _workspaces(limit_gb: float | None) -> Iterator[int | None]:
    """Yield workspace limits in bytes, largest first; None leaves the first to the library."""
    first = None if limit_gb is None else int(limit_gb * (1 << 30))
    yield first
    size = first if first is not None else 8 << 30
    for _ in range(WORKSPACE_RETRIES):
        size //= 2
        yield size


def _ran_out_of_memory(errors: list[str]) -> bool:
    return is_about_memory(" ".join(errors))


def _monitor(trt: Any, on_phase: OnPhase) -> Any:
    """Return a progress monitor that reports the outermost phase and never stops a build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                on_phase(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                on_phase(phase_name, step + 1, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
