"""The number formats of graphs: one table, which every part reads that decides on a precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from triplex_deploy.errors import ConfigError

Runtime = Literal["onnxruntime", "tensorrt"]
"""A runtime that graphs are exported for."""
Emulation = Literal["as_is", "rounded", "unoptimized"]
"""How a graph for TensorRT runs on a CPU, see ``Precision.emulation``."""


@dataclass(frozen=True)
class Gate:
    """Limits on the difference from PyTorch in fp32; None means that a measure has no limit."""

    max_relative: float | None
    """Largest absolute error over the output's range."""
    min_cosine: float | None
    """Least cosine between the outputs."""
    median_gene_pcc: float
    """Least median over genes of the Pearson correlation, end to end."""
    min_gene_pcc: float | None
    """Least Pearson correlation of a gene, end to end."""


_EXACT: Final = Gate(1e-4, None, 0.99999, 0.99999)
_HALF: Final = Gate(None, 0.999, 0.999, 0.99)
_BF16: Final = Gate(None, 0.995, 0.995, None)
_EIGHT_BITS: Final = Gate(None, 0.99, 0.99, 0.95)


@dataclass(frozen=True)
class Precision:
    """A number format: which runtimes offer it, how it is made and how it is checked."""

    name: str
    """Name in options, manifests and reports."""
    gate: Gate
    """Limits for each graph and for the whole chain of graphs."""
    runtimes: tuple[Runtime, ...]
    """Runtimes that offer it."""
    onnx_type: str = "FLOAT"
    """Type of weights and activations in the file, a name of ``onnx.TensorProto``."""
    is_converted: bool = False
    """Whether a float graph is converted to ``onnx_type`` by casts."""
    other_graphs: Mapping[Runtime, str] = field(default_factory=dict)
    """Precision, by runtime, of graphs that may not be quantized.

    It is empty if the precision is for every graph.
    """
    is_exact: bool = False
    """Whether a graph beyond the gate is a defect, because no export is more precise."""
    allows_tf32: bool = False
    """Whether a GPU may round the factors of fp32 products to 10 bits (TF32)."""
    least_capability: tuple[int, int] = (0, 0)
    """Lowest compute capability of a GPU that multiplies the type."""
    cpu_flags: tuple[str, ...] = ()
    """Flags of x86 processors in ``/proc/cpuinfo``: with any of them a CPU multiplies the type in
    hardware, fastest first. Empty if every CPU does, or none."""
    checked_as: str = ""
    """Precision that gives the gate on a CPU; empty for the precision's own gate."""
    emulation: Emulation = "as_is"
    """How a graph for TensorRT runs on a CPU.

    ``rounded``: every result is rounded to the type and held in fp32. ``unoptimized``: without
    graph optimization, because ONNX Runtime 1.32 optimizes fp8 graphs wrongly.
    """

    @property
    def needs_calibration(self) -> bool:
        """Return whether the precision quantizes, so that activation ranges must be measured."""
        return bool(self.other_graphs)


_BOTH: Final[tuple[Runtime, ...]] = ("onnxruntime", "tensorrt")
_TENSORRT: Final[tuple[Runtime, ...]] = ("tensorrt",)
PRECISIONS: Final[dict[str, Precision]] = {
    precision.name: precision
    for precision in (
        Precision("fp32", _EXACT, _BOTH, is_exact=True),
        Precision("tf32", _HALF, _TENSORRT, is_exact=True, allows_tf32=True, checked_as="fp32"),
        Precision("fp16", _HALF, _BOTH, "FLOAT16", is_converted=True, emulation="rounded"),
        Precision(
            "bf16",
            _BF16,
            _TENSORRT,
            "BFLOAT16",
            is_converted=True,
            least_capability=(8, 0),  # Ampere
            cpu_flags=("amx_bf16", "avx512_bf16"),
            emulation="rounded",
        ),
        Precision(
            "int8",
            _EIGHT_BITS,
            _BOTH,
            "INT8",
            other_graphs={"onnxruntime": "fp32", "tensorrt": "fp16"},
            cpu_flags=("amx_int8", "avx512_vnni", "avx_vnni"),
        ),
        Precision(
            "fp8",
            _EIGHT_BITS,
            _TENSORRT,
            "FLOAT8E4M3FN",
            other_graphs={"tensorrt": "fp16"},
            least_capability=(8, 9),  # Ada
            emulation="unoptimized",
        ),
    )
}
"""Every precision by its name."""

DEFAULT: Final = "fp32"
"""Precision of an export, for every runtime, unless the caller chooses another."""
QUANTIZED: Final = tuple(name for name, entry in PRECISIONS.items() if entry.needs_calibration)
"""Names of the precisions that need calibration tiles."""
CONVERTED: Final = tuple(name for name, entry in PRECISIONS.items() if entry.is_converted)
"""Names of the precisions that a float graph is converted to."""


def precision_of(name: str) -> Precision:
    """Return the entry of the table.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r}: use {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def offered_by(runtime: Runtime) -> tuple[str, ...]:
    """Return the names of the precisions that a runtime offers."""
    return tuple(name for name, entry in PRECISIONS.items() if runtime in entry.runtimes)


def require_offered(name: str, runtime: Runtime) -> None:
    """Raise ``ConfigError`` unless a runtime offers the precision."""
    offered = offered_by(runtime)
    if name not in offered:
        raise ConfigError(f"precision {name!r}: use {', '.join(offered)} for {runtime}")


def graph_precision(name: str, runtime: Runtime, is_quantizable: bool) -> str:
    """Return the precision of one graph in an export.

    Args:
        name: Precision of the export.
        runtime: Runtime that the graph is exported for.
        is_quantizable: Whether the graph is among ``Config.quantizable``.
    """
    return name if is_quantizable else precision_of(name).other_graphs.get(runtime, name)


def cpu_flag(name: str, flags: Collection[str]) -> str | None:
    """Return the flag that says that a CPU multiplies the precision in hardware.

    Args:
        name: A precision with ``cpu_flags``.
        flags: The processor's flags, as ``system.processor_flags()`` returns them.

    Returns:
        The first of the precision's flags among ``flags``; None if there is none, and the CPU
        emulates the precision or computes it slowly.
    """
    return next((flag for flag in precision_of(name).cpu_flags if flag in flags), None)
