"""Fractions of what a GPU can do at most, where its data sheet is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Peak:
    """Dense tera-operations per second by precision, and terabytes per second of memory."""

    tflops: dict[str, float]
    tbytes_per_s: float

    def fraction(self, flops: float, traffic_bytes: float, seconds: float, precision: str) -> float:
        """Least possible seconds over measured ones: 1 is the roof."""
        computing = flops / (self.tflops[precision] * 1e12)
        moving = traffic_bytes / (self.tbytes_per_s * 1e12)
        return max(computing, moving) / seconds


PEAKS: Final = {
    "H100 80GB HBM3": Peak({"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}, 3.35),
    "H100 PCIe": Peak({"fp32": 51.2, "tf32": 378.0, "fp16": 756.0, "bf16": 756.0}, 2.04),
    "H200": Peak({"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}, 4.8),
    "A100": Peak({"fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0}, 1.555),
    "L4": Peak({"fp32": 30.3, "tf32": 60.0, "fp16": 121.0, "bf16": 121.0}, 0.3),
}
"""From NVIDIA's data sheets, without sparsity, at boost clocks."""


def peak_of(gpu: str) -> Peak | None:
    """The peak of the GPU whose name contains a key of ``PEAKS``; None if none does."""
    return next((peak for key, peak in PEAKS.items() if key in gpu), None)
