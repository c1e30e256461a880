"""Define the options of a prediction and check them once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from triplex_deploy.errors import ConfigError
from triplex_deploy.spots import Pooling, Spots
from triplex_deploy.spots.layouts import MIN_TISSUE_FRACTION
from triplex_deploy.spots.pooling import DEFAULT_BIN_UM, DEFAULT_LATTICE
from triplex_deploy.spots.tissue_mask import MASK_ORIGINS
from triplex_deploy.tiles.stream import MEMORY_BYTES, OnBadTile

LAYOUTS: Final = ("grid", "visium")
MIN_PITCH_UM: Final = 5.0
"""Smallest pitch, half a cell; less is a typing error that would fill the memory."""
MIN_REGION_MM: Final = 0.1
"""Smallest side, a few spots; less is a typing error, such as a value in other units."""


OnUnfamiliar = Literal["warn", "fail", "ignore"]
"""What to do with a slide that is unlike the training tissue."""


@dataclass(frozen=True, repr=False)
class PredictOptions:
    """Options of ``predict_slide``; the defaults are those of the command line.

    Raises:
        ConfigError: If a value is out of range, or two options contradict each other.
    """

    spots: str | Path | Spots | None = None
    """A spots file or ``Spots``; None places spots over the tissue."""
    pool_um: float | None = None
    """Distance of the spots into which the bins of Visium HD or the cells of Xenium are pooled, if
    ``spots`` is the folder of such data; None pools nothing."""
    lattice: str = DEFAULT_LATTICE
    """Lattice of pooled spots: ``square`` or ``hexagonal``."""
    spots_format: str | None = None
    """What is pooled: ``visium-hd``, ``xenium`` or ``spatialdata``; None finds it in the folder."""
    bin_um: int = DEFAULT_BIN_UM
    """Size of the bins of Visium HD that are pooled: 8 or 16."""
    alignment: Path | None = None
    """Xenium Explorer's alignment of the slide; None takes the only one in the folder."""
    layout: str | None = None
    """``grid`` (the default) or ``visium``, if ``spots`` is None."""
    pitch_um: float | None = None
    """Distance of the spots of a grid in microns; None lets tiles touch."""
    mask: str | Path | None = None
    """A picture of the tissue, or regions as GeoJSON; None finds the tissue."""
    mask_class: str | None = None
    """Class of ``mask`` that counts: a name in GeoJSON, a number in a picture of classes."""
    mask_origin: str = "scanned"
    """Where coordinates of GeoJSON begin: at the ``scanned`` part, as in QuPath, or ``slide``."""
    min_tissue: float = MIN_TISSUE_FRACTION
    """Least share of a spot that must be tissue."""
    all_tiles: bool = False
    """Place spots everywhere, not on tissue alone."""
    mpp: float | None = None
    """Microns per level-0 pixel, if the slide's metadata has none or a wrong value."""
    genes: tuple[str, ...] | None = None
    """Genes to return, in this order; None returns all genes of the bundle."""
    batch_size: int | None = None
    """Tiles per encoder call; None chooses it for the machine."""
    memory_gb: float = 4.0
    """Bound of decoded pixels, features and tokens in memory; the rest goes to a temporary file."""
    on_bad_tile: OnBadTile = "raise"
    """``skip`` predicts unreadable parts of the slide as black."""
    region_mm: float | None = None
    """Side of the squares on which the global encoder runs; None uses the whole slide."""
    save_features: bool = False
    """Return the features of the tile at each spot, which the h5ad holds as ``obsm["X_tile"]``."""
    half_features: bool = False
    """Keep features and tokens as float16."""
    cache: Path | None = None
    """Folder that keeps tile features for later runs, also of other models."""
    shared_cache: bool = False
    """Also take what others wrote into ``cache``; who may write there can alter results."""
    unfamiliar: OnUnfamiliar = "warn"
    """What to do with a slide that is unlike the tissue that the model was trained on."""
    threads: int | None = None
    """Threads that encode on a CPU; None chooses them for the machine."""

    def __post_init__(self) -> None:
        if self.layout not in (None, *LAYOUTS):
            raise ConfigError(f"layout {self.layout!r}: not known; use {' or '.join(LAYOUTS)}")
        if self.on_bad_tile not in ("raise", "skip"):
            raise ConfigError(f"on_bad_tile {self.on_bad_tile!r}: use raise or skip")
        if self.unfamiliar not in ("warn", "fail", "ignore"):
            raise ConfigError(f"unfamiliar {self.unfamiliar!r}: use warn, fail or ignore")
        if self.shared_cache and self.cache is None:
            raise ConfigError("shared_cache: there is no cache; give its folder, too")
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
            "min_tissue": self.min_tissue != MIN_TISSUE_FRACTION,
        }
        chosen = [name for name, given in placed.items() if given]
        self.pooling  # noqa: B018 - making it checks its options
        if self.spots is not None and chosen:
            raise ConfigError(f"{chosen[0]}: spots are given already; leave one of them out")
        if not 0 < self.min_tissue <= 1:
            raise ConfigError(f"min_tissue={self.min_tissue}: use a share above 0, at most 1")
        if self.mask_origin not in MASK_ORIGINS:
            raise ConfigError(f"mask_origin {self.mask_origin!r}: use {' or '.join(MASK_ORIGINS)}")
        if self.mask is None and self.mask_class is not None:
            raise ConfigError("mask_class: there is no mask; give its file, too")
        if self.mask is not None and self.all_tiles:
            raise ConfigError("all_tiles: contradicts the mask; leave one of them out")
        if self.pitch_um is None:
            return
        if self.layout == "visium":
            raise ConfigError("pitch_um: only the grid layout has a free pitch; leave it out")
        if not MIN_PITCH_UM <= self.pitch_um < math.inf:
            raise ConfigError(f"pitch_um={self.pitch_um}: use at least {MIN_PITCH_UM:g} microns")

    @property
    def pooling(self) -> Pooling | None:
        """Return how the data of ``spots`` is pooled into spots; None if it is not.

        Raises:
            ConfigError: An option of pooling is out of range, or there is nothing to pool.
        """
        if self.pool_um is None:
            others = (self.spots_format, self.alignment, self.lattice, self.bin_um)
            if others != (None, None, DEFAULT_LATTICE, DEFAULT_BIN_UM):
                raise ConfigError(
                    "pool_um: is needed to pool data into spots; give it, such as 100"
                )
            return None
        if not isinstance(self.spots, str | Path):
            raise ConfigError("pool_um: there is nothing to pool; give the folder as spots")
        return Pooling(self.pool_um, self.lattice, self.spots_format, self.bin_um, self.alignment)

    def __repr__(self) -> str:
        """Return the options that differ from their defaults."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        chosen = [
            f"{name}={value!r}"
            for name, value, default in values
            if isinstance(value, Spots) or value != default
        ]
        return f"PredictOptions({', '.join(chosen)})"

    @property
    def skips_bad(self) -> bool:
        """True if unreadable parts are predicted as black."""
        return self.on_bad_tile == "skip"

    @property
    def stream_bytes(self) -> int:
        """Share of the memory for decoded pixels: a quarter, at most a gigabyte."""
        return int(min(MEMORY_BYTES, self.memory_gb * 1e9 / 4))

    @property
    def row_store_bytes(self) -> float:
        """Memory for features and tokens: what ``stream_bytes`` leaves."""
        return self.memory_gb * 1e9 - self.stream_bytes
