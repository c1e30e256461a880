"""The gene-by-spot table of one slide, with all that is needed to draw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.outputs.genes import gene_indices

THUMBNAIL_MAX_PX: Final = 2000
"""Longest side of ``Prediction.thumbnail``."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """Expression of G genes at N spots of one slide.

    ``level0_xy`` are spot centres and ``spot_diameter_px`` a length, both in level-0 pixels;
    ``grid_rc`` are array coordinates (row, column). ``thumbnail`` is RGB and shows the whole slide.
    ``run`` holds the facts of the run (bundle, versions, layout, timings, counts) and must be
    representable as JSON. ``barcodes`` are the spots' names in the file they came from, one per
    spot, or none. Arrays of another dtype or shape raise ``ContractError``.
    """

    slide_name: str
    expression: NDArray[np.float32]  # (N, G)
    genes: tuple[str, ...]
    level0_xy: NDArray[np.float64]  # (N, 2)
    grid_rc: NDArray[np.int64]  # (N, 2)
    slide_size_wh: tuple[int, int]
    slide_mpp: float
    spot_diameter_px: float
    thumbnail: NDArray[np.uint8]  # (h, w, 3)
    run: dict[str, Any]
    tissue_overlay: NDArray[np.uint8] | None = None  # (h, w, 3), the mask drawn on the thumbnail
    barcodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_spots = len(self.expression)
        _require("expression", self.expression, np.float32, (n_spots, len(self.genes)))
        _require("level0_xy", self.level0_xy, np.float64, (n_spots, 2))
        _require("grid_rc", self.grid_rc, np.int64, (n_spots, 2))
        _require("thumbnail", self.thumbnail, np.uint8, (*self.thumbnail.shape[:2], 3))
        _require_unique("genes", self.genes)
        _require_unique("grid_rc", self.spot_names)
        if self.barcodes and len(self.barcodes) != n_spots:
            raise ContractError(
                f"barcodes: {len(self.barcodes)} for {n_spots} spots; give one per spot or none"
            )
        self._require_geometry()

    def __repr__(self) -> str:
        return f"<Prediction of {self.slide_name!r}: {self.n_spots} spots, {len(self.genes)} genes>"

    def _require_geometry(self) -> None:
        if not self.slide_name or "/" in self.slide_name:
            raise ContractError(f"slide_name={self.slide_name!r}: give the stem of a file name")
        if not 0 < min(self.thumbnail.shape) <= max(self.thumbnail.shape) <= THUMBNAIL_MAX_PX:
            raise ContractError(
                f"thumbnail: shape {self.thumbnail.shape}; give 1 to {THUMBNAIL_MAX_PX} px a side"
            )
        for name in ("slide_mpp", "spot_diameter_px"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ContractError(f"{name}={getattr(self, name)}: give a positive length")
        if len(self.slide_size_wh) != 2 or min(self.slide_size_wh) < 1:
            raise ContractError(f"slide_size_wh={self.slide_size_wh}: give width and height")

    @property
    def n_spots(self) -> int:
        return len(self.expression)

    @property
    def spot_names(self) -> tuple[str, ...]:
        """``"<column>x<row>"`` of every spot, her2st's form."""
        return tuple(f"{column}x{row}" for row, column in self.grid_rc.tolist())

    @property
    def has_square_spots(self) -> bool:
        """Whether spots are tiles of a grid, drawn as squares, and not round."""
        return self.run.get("layout") == "grid"

    def select_genes(self, names: Sequence[str]) -> Prediction:
        """The same spots with ``names`` alone, in that order; ``ConfigError`` if one is unknown."""
        chosen = gene_indices(names, self.genes)
        expression = np.ascontiguousarray(self.expression[:, chosen])
        return replace(self, expression=expression, genes=tuple(self.genes[i] for i in chosen))

    def write_h5ad(self, path: str | Path) -> None:
        """Write an AnnData file for scanpy and squidpy, atomically; ``OutputError`` on failure."""
        from triplex_deploy.outputs.h5ad import write_h5ad

        write_h5ad(self, path)


def _require(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ContractError(
            f"{name}: {array.dtype} {array.shape} given; expected {np.dtype(dtype)} {shape}"
        )


def _require_unique(name: str, values: tuple[str, ...]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ContractError(f"{name}: {', '.join(twice[:3])} more than once; names must be unique")
