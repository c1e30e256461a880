"""Options of an export, which need neither PyTorch nor ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.precision import DEFAULT, QUANTIZED, require_offered
from triplex_deploy.errors import ConfigError
from triplex_deploy.runtime.tensorrt.build import Compatibility, EngineSettings
from triplex_deploy.runtime.tensorrt.profiles import choose_profiles

WEIGHT_BITS: Final = (8, 7)
"""Choices for the bits of weights; the first is the default."""


@dataclass(frozen=True)
class TensorrtOptions:
    """Holds the options of the engines."""

    precision: str = DEFAULT
    """Precision. tf32 is fp32 in which matrix products may round their factors to 10 bits."""
    profiles: tuple[str, ...] = ()
    """Ranges of the dynamic axes as ``NAME=MIN:OPT:MAX``."""
    version_compatible: bool = False
    """Build engines that later versions of TensorRT can load."""
    hardware: Compatibility = "none"
    """GPUs other than the building GPU that the engines must run on."""
    refit: bool = False
    """Build engines in which the weights can be replaced."""
    workspace_gb: float | None = None
    """Largest working memory of an engine in GB; None leaves it to TensorRT."""

    def __post_init__(self) -> None:
        require_offered(self.precision, "tensorrt")

    def settings(self, specs: Mapping[str, GraphSpec]) -> EngineSettings:
        """Return the settings of the engines.

        Raises:
            ConfigError: A profile does not fit the graphs.
        """
        profiles = choose_profiles(specs, self.profiles)
        return EngineSettings(
            precision=self.precision,
            profiles={name: profile.lengths for name, profile in profiles.items()},
            version_compatible=self.version_compatible,
            hardware=self.hardware,
            refit=self.refit,
            workspace_gb=self.workspace_gb,
        )


@dataclass(frozen=True)
class ExportOptions:
    """Holds the options of an export."""

    precision: str = DEFAULT
    """Precision of the graphs for ONNX Runtime. fp16 is for GPUs; int8 quantizes the convolutional
    image encoders. Graphs that look up training spots stay fp32."""
    calibration: NDArray[np.uint8] | None = None
    """Tiles (T, 224, 224, 3) of slides like those to predict; for int8 and fp8 only."""
    int8_weights: int = WEIGHT_BITS[0]
    """Bits of the weights of int8 for ONNX Runtime: 8, or 7 for CPUs without VNNI."""
    raw: bool = False
    """Leave out the calibration of the predictions (docs/models.md, "Calibration")."""
    force: bool = False
    """Replace an existing bundle."""
    allow_parity_failure: bool = False
    """Keep a bundle that does not pass its parity gate; its manifest records this."""
    tensorrt: TensorrtOptions | None = None
    """Options of the graphs for TensorRT; None to leave them out."""
    triton: bool = False
    """Write a Triton model repository into the bundle's folder ``triton``."""

    def __post_init__(self) -> None:
        require_offered(self.precision, "onnxruntime")
        if self.int8_weights not in WEIGHT_BITS:
            raise ConfigError(
                f"int8_weights: {self.int8_weights}; use {' or '.join(map(str, WEIGHT_BITS))}"
            )
        asked = {self.precision, self.tensorrt.precision if self.tensorrt else ""}
        if bool(asked.intersection(QUANTIZED)) != (self.calibration is not None):
            raise ConfigError(
                f"calibration: {' and '.join(QUANTIZED)} need slides to calibrate on, other "
                "precisions take none"
            )
