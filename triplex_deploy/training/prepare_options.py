"""Define the options of ``prepare_dataset`` and check them once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, Neighborhood
from triplex_deploy.contract.neighborhood import DEFAULT_STRIDE, EXACT, SHARED
from triplex_deploy.errors import ConfigError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.runtime.backends import AUTO
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.spots import Pooling
from triplex_deploy.spots.pooling import DEFAULT_BIN_UM, DEFAULT_LATTICE, POOLED_FORMATS


@dataclass(frozen=True)
class PrepareOptions:
    """Options of ``prepare_dataset``; the defaults are those of the command line.

    Raises:
        ConfigError: If a value is out of range.
    """

    layout: str
    """Layout of the data set, one of ``triplex_deploy.data.FORMATS``."""
    section_list: Path | None = None
    """Table of sections and patients, see ``read_section_list``."""
    pool_um: float | None = None
    """Distance of the spots into which Visium HD bins or Xenium transcripts are pooled."""
    lattice: str = DEFAULT_LATTICE
    """Lattice of pooled spots: ``square`` or ``hexagonal``."""
    bin_um: int = DEFAULT_BIN_UM
    """Size of the bins of Visium HD that are pooled: 8 or 16."""
    alignment: Path | None = None
    """Xenium Explorer's alignment of the slide; None takes the only one in a section's folder."""
    n_genes: int = 250
    """Number of most abundant genes to train on."""
    gene_list: Path | None = None
    """File of genes to train on, one per line, in place of ``n_genes``."""
    tile_encoder: Path | None = None
    """Weights of a backbone, or an ONNX file; None for random weights of ``seed``."""
    encoder_mean: tuple[float, float, float] = IMAGE_MEAN
    """RGB mean that is subtracted, in [0, 1], for an ONNX file that takes floats."""
    encoder_std: tuple[float, float, float] = IMAGE_STD
    """RGB standard deviation that is divided by, for an ONNX file that takes floats."""
    folds: str = "patients"
    """Scheme of ``make_folds``."""
    tile_mpp: float | None = None
    """Microns per pixel of the tiles; None for the median of the sections."""
    native_pixels: bool = False
    """Read slides without rescaling, as the published code does."""
    neighborhood: str = EXACT
    """``exact``, or ``shared`` to take neighbor tiles from one grid of the slide."""
    stride: int | None = None
    """Distance of that grid's tiles in view pixels; None for a tile's side."""
    labels: LabelTransform = field(default_factory=LabelTransform)
    """How labels are made from counts."""
    seed: int = 2021
    """Seed of folds and of random weights."""
    batch_size: int = 32
    """Most tiles per call of the encoder; at most 4 on a CPU."""
    threads: int | None = None
    """CPU threads that encode, one batch each; None for one per usable core."""
    backend: str = AUTO
    """What runs the encoder, see ``RunOptions``."""
    precision: str = "fp32"
    """Precision of the features, see ``RunOptions``."""
    device: Device = CPU
    """Device that encodes the tiles."""

    def __post_init__(self) -> None:
        if self.n_genes < 1:
            raise ConfigError(f"genes: {self.n_genes} asked for; use at least 1")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be at least 1")
        if min(self.encoder_std) <= 0:
            raise ConfigError(f"encoder std {self.encoder_std}: use positive numbers")
        if self.tile_mpp is not None and not 0 < self.tile_mpp < np.inf:
            raise ConfigError(f"tile mpp {self.tile_mpp}: use positive microns per pixel")
        self.neighbors  # noqa: B018 - making it checks both options
        is_pooled = self.layout in POOLED_FORMATS
        if is_pooled and self.pooling is None:
            raise ConfigError(
                f"pool_um: {self.layout} is pooled into spots; give their distance, such as 100"
            )
        if self.pooling is not None and not is_pooled:
            raise ConfigError(f"pool_um: {self.layout} has spots of its own; leave it out")

    @property
    def pooling(self) -> Pooling | None:
        """Return how data is pooled into spots; None without ``pool_um``.

        Raises:
            ConfigError: A value is out of range, or an alignment is given for another layout.
        """
        if self.alignment is not None and self.layout != "xenium":
            raise ConfigError("alignment: is for xenium; leave it out")
        if self.pool_um is None:
            if (self.lattice, self.bin_um) != (DEFAULT_LATTICE, DEFAULT_BIN_UM):
                raise ConfigError(
                    "pool_um: is needed to pool data into spots; give it, such as 100"
                )
            return None
        kind = self.layout if self.layout in POOLED_FORMATS else None
        return Pooling(self.pool_um, self.lattice, kind, self.bin_um, self.alignment)

    @property
    def neighbors(self) -> Neighborhood:
        """Return where neighbor tiles are taken.

        Raises:
            ConfigError: The kind is unknown, or the stride does not fit it.
        """
        default = DEFAULT_STRIDE if self.neighborhood == SHARED else 0
        return Neighborhood(self.neighborhood, default if self.stride is None else self.stride)
