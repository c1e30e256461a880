"""Define where the neighbor tiles of a spot are taken (docs/models.md, "Shared neighbors")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from triplex_deploy.contract.graphs import TILE_PX
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.escape import short_repr

EXACT: Final = "exact"
SHARED: Final = "shared"
NEIGHBORHOODS: Final = (EXACT, SHARED)
"""Values of ``Neighborhood.kind``."""
MAX_STRIDE: Final = TILE_PX
"""Largest stride: with a larger one, two neighbors of a spot could be one tile."""
DEFAULT_STRIDE: Final = TILE_PX
"""Stride of a shared neighborhood unless the user gives another: fewest tiles."""
KIND_KEY: Final = "neighborhood"
STRIDE_KEY: Final = "neighborhood_stride"


@dataclass(frozen=True)
class Neighborhood:
    """Where the neighbor tiles of a spot are taken; its target tile is always exact.

    Raises:
        ConfigError: The kind is unknown, or the stride does not fit it.
    """

    kind: str = EXACT
    """``exact``: around the spot, to the pixel. ``shared``: from one grid of the slide, at the
    nearest place."""
    stride: int = 0
    """Distance of the grid's tiles in view pixels along x and y; 0 if exact."""

    def __post_init__(self) -> None:
        if self.kind not in NEIGHBORHOODS:
            raise ConfigError(
                f"{KIND_KEY}={short_repr(self.kind)}: use {' or '.join(NEIGHBORHOODS)}"
            )
        if not self.is_shared and self.stride:
            raise ConfigError(
                f"{STRIDE_KEY}={self.stride}: belongs to a shared neighborhood; use 0, or "
                f"{KIND_KEY}={SHARED}"
            )
        if self.is_shared and not 1 <= self.stride <= MAX_STRIDE:
            raise ConfigError(f"{STRIDE_KEY}={self.stride}: use 1 to {MAX_STRIDE} view pixels")

    @property
    def is_shared(self) -> bool:
        """Return whether neighbor tiles come from one grid of the slide."""
        return self.kind == SHARED

    def recorded(self) -> dict[str, Any]:
        """Return what files record, by the keys of the settings: nothing if exact.

        So files of exact neighborhoods are those of versions that knew no other.
        """
        return {KIND_KEY: self.kind, STRIDE_KEY: self.stride} if self.is_shared else {}

    @classmethod
    def of_record(cls, values: Mapping[str, Any]) -> Neighborhood:
        """Return the neighborhood that a file records; exact if it records none.

        Raises:
            ConfigError: The values do not fit.
        """
        return cls(str(values.get(KIND_KEY, EXACT)), int(values.get(STRIDE_KEY, 0)))

    def __str__(self) -> str:
        return f"shared, stride {self.stride} px" if self.is_shared else EXACT
