"""Compare rates with the peak of a GPU, from its data sheet, or of a CPU, as measured on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from triplex_deploy.bench.result import Ceilings
from triplex_deploy.contract.precision import QUANTIZED, offered_by

FLOAT_PRECISIONS: Final = tuple(n for n in offered_by("tensorrt") if n not in QUANTIZED)
"""Precisions of ``PEAKS``, in the order of its columns."""


@dataclass(frozen=True)
class Peak:
    """Dense tera-operations per second by precision, and terabytes per second of memory."""

    tflops: dict[str, float]
    tbytes_per_s: float

    def fraction(self, flops: float, traffic_bytes: float, seconds: float, precision: str) -> float:
        """Return the least possible seconds over measured ones; 1 is the roof."""
        computing = flops / (self.tflops[precision] * 1e12)
        moving = traffic_bytes / (self.tbytes_per_s * 1e12)
        return max(computing, moving) / seconds


def _sheet(tflops: tuple[float, ...], tbytes_per_s: float) -> Peak:
    """Return the peak of a GPU, from its rates in the order of ``FLOAT_PRECISIONS``."""
    return Peak(dict(zip(FLOAT_PRECISIONS, tflops, strict=True)), tbytes_per_s)


PEAKS: Final = {
    "H100 80GB HBM3": _sheet((66.9, 494.7, 989.4, 989.4), 3.35),
    "H100 PCIe": _sheet((51.2, 378.0, 756.0, 756.0), 2.04),
    "H200": _sheet((66.9, 494.7, 989.4, 989.4), 4.8),
    "A100": _sheet((19.5, 156.0, 312.0, 312.0), 1.555),
    "L4": _sheet((30.3, 60.0, 121.0, 121.0), 0.3),
}
"""From NVIDIA's data sheets, without sparsity, at boost clocks."""


def peak_of(gpu: str) -> Peak | None:
    """Return the peak of the GPU with a key of ``PEAKS`` in its name, None for another GPU."""
    return next((peak for key, peak in PEAKS.items() if key in gpu), None)


def peak_of_cpu(ceilings: Ceilings) -> Peak:
    """Return the peak of a CPU from the matrix products and the copy measured on it."""
    rates = {name: peak.flops_per_s / 1e12 for name, peak in ceilings.peaks.items()}
    return Peak(rates, ceilings.bytes_per_s / 1e12)
