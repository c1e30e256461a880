"""Hold the predicted expression of one slide, and all that is needed to draw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.h5ad_parts import h5ad_bytes, metadata_entry, spatial_entry
from triplex_deploy.outputs.held_out import HELD_OUT, held_out_columns, held_out_entry
from triplex_deploy.outputs.units import describe_units, log_base
from triplex_deploy.reliability import GeneReliability

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

THUMBNAIL_MAX_PX: Final = 2000
"""Longest side of ``Prediction.thumbnail``."""


FAMILIARITY_COLUMN: Final = "familiarity"
"""Name of the column of ``obs`` that holds ``Prediction.familiarity``."""
FEATURES_KEY: Final = "X_tile"
"""Name of the entry of ``obsm`` that holds ``Prediction.features``."""
SPREAD_LAYER: Final = "std"
"""Name of the layer of an AnnData object that holds ``Prediction.spread``."""
MAX_ARRAY_PLACE: Final = 2**31 - 1
"""Largest row or column of the array; files hold them as integers of 32 bits."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predicted expression of G genes at N spots of one slide.

    Raises:
        ContractError: If an array has another dtype or shape, or a value is out of range.
    """

    slide_name: str
    """Stem of the slide's file name."""
    expression: NDArray[np.float32]
    """(N, G), in the units of the model's labels."""
    genes: tuple[str, ...]
    """G names, unique."""
    level0_xy: NDArray[np.float64]
    """(N, 2): x and y of the spot centers, in level-0 pixels."""
    grid_rc: NDArray[np.int64]
    """(N, 2): row and column of the spots in their array, unique."""
    slide_size_wh: tuple[int, int]
    """Width and height of the slide, in level-0 pixels."""
    slide_mpp: float
    """Microns per level-0 pixel."""
    spot_diameter_px: float
    """Diameter of a spot, in level-0 pixels."""
    thumbnail: NDArray[np.uint8]
    """(h, w, 3): RGB picture of the whole slide."""
    run: dict[str, Any]
    """Metadata of the run: bundle, versions, layout, timings and counts; can be written as JSON."""
    tissue_overlay: NDArray[np.uint8] | None = None
    """(h, w, 3): the tissue mask drawn on the thumbnail, if there was a mask."""
    barcodes: tuple[str, ...] = ()
    """N names of the spots in the spots file, or none."""
    spread: NDArray[np.float32] | None = None
    """(N, G): standard deviation of an ensemble; None for a single model. ``run["std"]`` says
    whether it is that of the error or over the members alone."""
    familiarity: NDArray[np.float32] | None = None
    """(N,): share of the training tiles that are less typical than the spot's tile, 0 to 1; None
    if the model does not tell."""
    features: NDArray[np.float32] | None = None
    """(N, F): the tile encoder's features of the tile at each spot, if they were asked for."""
    reliability: GeneReliability | None = None
    """How well each of the G genes was predicted at held-out spots; None if not measured."""

    def __post_init__(self) -> None:
        n_spots = len(self.expression)
        _require("expression", self.expression, np.float32, (n_spots, len(self.genes)))
        if self.spread is not None:
            _require("spread", self.spread, np.float32, self.expression.shape)
        if self.familiarity is not None:
            _require("familiarity", self.familiarity, np.float32, (n_spots,))
        if self.reliability is not None and self.reliability.n_genes != len(self.genes):
            raise ContractError(
                f"reliability: of {self.reliability.n_genes} genes; give it of {len(self.genes)}"
            )
        if self.features is not None:
            _require("features", self.features, np.float32, (n_spots, *self.features.shape[1:2]))
        _require("level0_xy", self.level0_xy, np.float64, (n_spots, 2))
        _require("grid_rc", self.grid_rc, np.int64, (n_spots, 2))
        _require("thumbnail", self.thumbnail, np.uint8, (*self.thumbnail.shape[:2], 3))
        _require_unique("genes", self.genes)
        if self.grid_rc.size and np.abs(self.grid_rc).max() > MAX_ARRAY_PLACE:
            raise ContractError(
                f"grid_rc: a row or column is beyond {MAX_ARRAY_PLACE}; give places on the array"
            )
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
        """Number of spots, N."""
        return len(self.expression)

    @property
    def spot_names(self) -> tuple[str, ...]:
        """N names of the form ``"<column>x<row>"``, as her2st writes them."""
        return tuple(f"{column}x{row}" for row, column in self.grid_rc.tolist())

    @property
    def units(self) -> str:
        """Units of the expression in words, from the model's label transform; empty if unknown."""
        return describe_units(self.run.get("label_transform"))

    @property
    def has_square_spots(self) -> bool:
        """True if spots are square tiles of a grid, False if they are round."""
        return self.run.get("layout") == "grid"

    def select_genes(self, names: Sequence[str]) -> Prediction:
        """Return the same spots with fewer genes.

        Args:
            names: Genes to keep, in the order of the result.

        Returns:
            A new prediction; the arrays of this one do not change.

        Raises:
            ConfigError: If a gene is unknown.
        """
        chosen = gene_indices(names, self.genes)
        expression = np.ascontiguousarray(self.expression[:, chosen])
        spread = None if self.spread is None else np.ascontiguousarray(self.spread[:, chosen])
        genes = tuple(self.genes[i] for i in chosen)
        reliability = self.reliability and self.reliability.select(chosen)
        return replace(
            self, expression=expression, genes=genes, spread=spread, reliability=reliability
        )

    def to_anndata(self) -> AnnData:
        """Return the prediction as an AnnData object of scanpy and squidpy.

        Returns:
            ``X`` (N, G) has the expression, ``obsm["spatial"]`` the spot centers in level-0 pixels,
            ``uns["spatial"]`` the images and ``uns["triplex"]`` the metadata and ``units``.
            ``obsm["X_tile"]`` are the features of tiles, if they were asked for.
            ``uns["log1p"]`` tells scanpy the base of the logarithm. ``layers["std"]`` is the spread
            of an ensemble. ``var`` has the reliability of each gene, if it was measured. Arrays are
            copies.
        """
        import anndata
        import pandas as pd

        row, column = self.grid_rc.T
        x, y = self.level0_xy.T
        obs = pd.DataFrame(
            {
                "in_tissue": np.ones(self.n_spots, np.int64),
                "array_row": row,
                "array_col": column,
                "pxl_row_in_fullres": y,
                "pxl_col_in_fullres": x,
            },
            index=pd.Index(self.spot_names, dtype=object),
        )
        if self.barcodes:
            obs["barcode"] = np.array(self.barcodes, object)
        if self.familiarity is not None:
            obs[FAMILIARITY_COLUMN] = self.familiarity
        return anndata.AnnData(
            X=self.expression.copy(),
            obs=obs,
            var=pd.DataFrame(
                held_out_columns(self.reliability), index=pd.Index(self.genes, dtype=object)
            ),
            obsm={"spatial": self.level0_xy.copy(), **self._features()},
            layers={} if self.spread is None else {SPREAD_LAYER: self.spread.copy()},
            uns=self._uns(),
        )

    def to_spatialdata(self) -> SpatialData:
        """Return the prediction as a SpatialData object: picture, spots and table.

        Raises:
            OutputError: If spatialdata is not installed.
        """
        from triplex_deploy.outputs.spatial_data import to_spatialdata

        return to_spatialdata(self)

    def plot(
        self, gene: str, axes: Axes | None = None, cmap: str = "viridis", alpha: float = 0.8
    ) -> Axes:
        """Draw a gene on the tissue, with matplotlib.

        Args:
            gene: Name of the gene.
            axes: Where to draw; None makes a figure.
            cmap: Color scale of matplotlib.
            alpha: Opacity of the spots, 0 to 1.

        Returns:
            The axes. The color range is that of the report, comparable between genes.

        Raises:
            ConfigError: If the gene is not predicted.
            OutputError: If matplotlib is not installed.
        """
        from triplex_deploy.outputs.plot import plot_gene

        return plot_gene(self, int(gene_indices([gene], self.genes)[0]), axes, cmap, alpha)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the strongest pattern and the main numbers."""
        from triplex_deploy.outputs.plot import html_summary

        return html_summary(self)

    def _features(self) -> dict[str, NDArray[np.float32]]:
        return {} if self.features is None else {FEATURES_KEY: self.features.copy()}

    def _uns(self) -> dict[str, Any]:
        geometry = {
            "slide_name": self.slide_name,
            "slide_width_px": int(self.slide_size_wh[0]),
            "slide_height_px": int(self.slide_size_wh[1]),
            "slide_mpp": float(self.slide_mpp),
        }
        spatial = spatial_entry(self.thumbnail, self.slide_size_wh, self.spot_diameter_px)
        base = log_base(self.run.get("label_transform"))
        return {
            "spatial": {self.slide_name: spatial},
            "triplex": metadata_entry(self.run, geometry, self.tissue_overlay)
            | {"units": self.units, HELD_OUT: held_out_entry(self.reliability)},
            **({} if base is None else {"log1p": {"base": base}}),
        }

    def write_h5ad(self, path: str | Path) -> None:
        """Write the prediction as an h5ad file of scanpy and squidpy, atomically.

        Args:
            path: File to write; an existing file is replaced.

        Raises:
            OutputError: If the file cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_bytes(h5ad_bytes(self.to_anndata()))


def _require(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ContractError(
            f"{name}: {array.dtype} {array.shape} given; expected {np.dtype(dtype)} {shape}"
        )


def _require_unique(name: str, values: tuple[str, ...]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ContractError(f"{name}: {', '.join(twice[:3])} more than once; names must be unique")
