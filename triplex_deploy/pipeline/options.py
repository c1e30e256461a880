"""What a caller may choose about one prediction, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from triplex_deploy.errors import ConfigError
from triplex_deploy.spots import Spots
from triplex_deploy.tiles.stream import MEMORY_BYTES, OnBadTile

LAYOUTS: Final = ("grid", "visium")
MIN_PITCH_UM: Final = 5.0
"""Spots closer than half a cell are a typing error, and a slide full of them fills any memory."""
MIN_REGION_MM: Final = 0.1
"""A side below a few spots' distance is a typing error, most likely microns for millimetres."""


@dataclass(frozen=True)
class PredictOptions:
    """Options of ``predict_slide``; every default is what the command line uses.

    ``spots`` is a spots file or ready ``Spots``. Without it ``layout`` ("grid" unless given) is
    laid over the tissue; ``pitch_um`` is the spot distance of a grid in microns (default:
    contiguous tiles), ``mask`` a picture that says where the tissue is, ``all_tiles`` ignores
    tissue altogether. ``mpp`` is the slide's microns per pixel where its metadata lacks or
    misstates it; ``genes`` restricts the output; ``batch_size`` counts tiles per encoder call
    and ``threads`` the CPU threads that make such calls (None: chosen for the machine);
    ``on_bad_tile`` "skip" predicts unreadable parts as black.

    ``memory_gb`` bounds decoded pixels, tile features and target tokens kept in memory; beyond it
    they wait in a temporary file, with ``half_features`` as fp16. ``region_mm`` relates spots
    within squares of that side alone, None within the whole slide. ``cache`` is a folder where
    tile features are kept for later runs, whichever model they serve.
    """

    spots: str | Path | Spots | None = None
    layout: str | None = None
    pitch_um: float | None = None
    mask: str | Path | None = None
    all_tiles: bool = False
    mpp: float | None = None
    genes: tuple[str, ...] | None = None
    batch_size: int | None = None
    memory_gb: float = 4.0
    on_bad_tile: OnBadTile = "raise"
    region_mm: float | None = None
    half_features: bool = False
    cache: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.layout not in (None, *LAYOUTS):
            raise ConfigError(f"layout {self.layout!r}: not known; use {' or '.join(LAYOUTS)}")
        if self.on_bad_tile not in ("raise", "skip"):
            raise ConfigError(f"on_bad_tile {self.on_bad_tile!r}: use raise or skip")
        self._check_placing()
        for name in ("batch_size", "threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"{name}={count}: must be at least 1")
        if not 0 < self.memory_gb < math.inf:
            raise ConfigError(f"memory_gb={self.memory_gb}: must be a positive number")
        if self.region_mm is not None and not MIN_REGION_MM <= self.region_mm < math.inf:
            raise ConfigError(f"region_mm={self.region_mm}: use at least {MIN_REGION_MM:g} mm")

    def _check_placing(self) -> None:
        placed = {
            "layout": self.layout is not None,
            "pitch_um": self.pitch_um is not None,
            "mask": self.mask is not None,
            "all_tiles": self.all_tiles,
        }
        chosen = [name for name, given in placed.items() if given]
        if self.spots is not None and chosen:
            raise ConfigError(f"{chosen[0]}: the spots are given already; leave one of them out")
        if self.mask is not None and self.all_tiles:
            raise ConfigError("all_tiles: contradicts the mask; leave one of them out")
        if self.pitch_um is None:
            return
        if self.layout == "visium":
            raise ConfigError("pitch_um: only the grid layout has a free pitch; leave it out")
        if not MIN_PITCH_UM <= self.pitch_um < math.inf:
            raise ConfigError(f"pitch_um={self.pitch_um}: use at least {MIN_PITCH_UM:g} microns")

    @property
    def skips_bad(self) -> bool:
        return self.on_bad_tile == "skip"

    @property
    def stream_bytes(self) -> int:
        """Share of the memory for decoded pixels: a quarter, at most a gigabyte."""
        return int(min(MEMORY_BYTES, self.memory_gb * 1e9 / 4))

    @property
    def store_bytes(self) -> float:
        """What is left for tile features and target tokens."""
        return self.memory_gb * 1e9 - self.stream_bytes
