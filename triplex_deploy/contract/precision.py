"""The number formats that graphs are exported in: one table for every part that decides on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from triplex_deploy.errors import ConfigError

Runtime = Literal["onnxruntime", "tensorrt"]
Emulation = Literal["as_is", "rounded", "unoptimized"]


@dataclass(frozen=True)
class Gate:
    """How far a graph may differ from PyTorch fp32; None means that the measure does not decide."""

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
    """A number format, where it exists and how it is made and checked."""

    name: str
    """Name in options, manifests and reports."""
    gate: Gate
    """Limits that a graph and the whole chain must keep."""
    runtimes: tuple[Runtime, ...]
    """Runtimes that offer it."""
    onnx_type: str = "FLOAT"
    """Element type of weights and activations in the file, a name of ``onnx.TensorProto``."""
    is_converted: bool = False
    """Whether a float graph is converted to ``onnx_type`` by casts."""
    beside: str = ""
    """Precision, for TensorRT, of graphs that may not be quantized; "" if it is for every graph.

    ONNX Runtime keeps those graphs in fp32.
    """
    is_exact: bool = False
    """Whether a missed gate is a defect: there is no more precise export to advise."""
    least_capability: tuple[int, int] = (0, 0)
    """Least compute capability of a GPU that multiplies the type."""
    cpu_instruction: str = ""
    """CPU instruction set that makes it fast; "" if there is none to name."""
    checked_as: str = ""
    """Precision whose gate applies on the CPU, where it differs; "" for its own."""
    emulation: Emulation = "as_is"
    """How a graph for TensorRT is run on a CPU.

    ``rounded``: every result is rounded to the type but held in fp32. ``unoptimized``: without
    graph optimization, which ONNX Runtime 1.32 gets wrong for fp8.
    """

    @property
    def needs_calibration(self) -> bool:
        """Return whether activation ranges are measured on tiles: the precision quantizes."""
        return bool(self.beside)


_BOTH: Final[tuple[Runtime, ...]] = ("onnxruntime", "tensorrt")
_TENSORRT: Final[tuple[Runtime, ...]] = ("tensorrt",)
PRECISIONS: Final[dict[str, Precision]] = {
    precision.name: precision
    for precision in (
        Precision("fp32", _EXACT, _BOTH, is_exact=True),
        # fp32 whose matrix products round their factors to 10 bits, which only a GPU does
        Precision("tf32", _HALF, _TENSORRT, is_exact=True, checked_as="fp32"),
        Precision("fp16", _HALF, _BOTH, "FLOAT16", is_converted=True, emulation="rounded"),
        Precision(
            "bf16",
            _BF16,
            _TENSORRT,
            "BFLOAT16",
            is_converted=True,
            least_capability=(8, 0),  # Ampere
            emulation="rounded",
        ),
        Precision("int8", _EIGHT_BITS, _BOTH, "INT8", beside="fp16", cpu_instruction="VNNI"),
        Precision(
            "fp8",
            _EIGHT_BITS,
            _TENSORRT,
            "FLOAT8E4M3FN",
            beside="fp16",
            least_capability=(8, 9),  # Ada
            emulation="unoptimized",
        ),
    )
}
"""Every precision by its name."""

DEFAULT: Final = "fp32"
"""Precision of an export for ONNX Runtime unless the caller chooses another."""
DEFAULT_TENSORRT: Final = "tf32"
"""The same for TensorRT, in the library and in the command."""
QUANTIZED: Final = tuple(name for name, entry in PRECISIONS.items() if entry.needs_calibration)
"""Names of the precisions of image encoders, which need calibration tiles."""
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
