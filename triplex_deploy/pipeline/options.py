"""What a caller may choose about one prediction, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triplex_deploy.errors import ConfigError
from triplex_deploy.spots import Spots

LAYOUTS = ("grid", "visium")


@dataclass(frozen=True)
class PredictOptions:
    """Options of ``predict_slide``; every default is what the command line uses.

    ``spots`` is a spots file or ready ``Spots`` and takes the place of ``layout``; ``pitch_um`` is
    the spot distance of the grid layout in microns (default: contiguous tiles); ``mpp`` is the
    slide's microns per pixel where its metadata lacks or misstates it; ``genes`` restricts the
    output; ``batch_size`` counts tiles per encoder call; ``memory_gb`` bounds the target tokens
    kept in memory before they go to a temporary file.
    """

    spots: Path | Spots | None = None
    layout: str = "grid"
    pitch_um: float | None = None
    mpp: float | None = None
    genes: tuple[str, ...] | None = None
    batch_size: int = 32
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout {self.layout!r}: not known; use {' or '.join(LAYOUTS)}")
        if self.pitch_um is not None and (self.spots is not None or self.layout != "grid"):
            raise ConfigError("pitch_um: only the grid layout has a free pitch; leave it out")
        if self.pitch_um is not None and self.pitch_um <= 0:
            raise ConfigError(f"pitch_um={self.pitch_um}: must be positive")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be at least 1")
        if self.memory_gb <= 0:
            raise ConfigError(f"memory_gb={self.memory_gb}: must be positive")
