"""Name what drawing and describing need of a prediction, so that a prediction can call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.reliability import GeneReliability

if TYPE_CHECKING:
    from anndata import AnnData


class Drawable(Protocol):
    """Values of G genes at N spots of a slide: what a ``Prediction`` offers."""

    @property
    def slide_name(self) -> str:
        """Name of the slide."""

    @property
    def expression(self) -> NDArray[np.float32]:
        """(N, G)."""

    @property
    def genes(self) -> tuple[str, ...]:
        """G names."""

    @property
    def level0_xy(self) -> NDArray[np.float64]:
        """(N, 2): spot centers in level-0 pixels."""

    @property
    def grid_rc(self) -> NDArray[np.int64]:
        """(N, 2): row and column of the spots."""

    @property
    def slide_size_wh(self) -> tuple[int, int]:
        """Width and height of the slide in level-0 pixels."""

    @property
    def slide_mpp(self) -> float:
        """Microns per level-0 pixel."""

    @property
    def spot_diameter_px(self) -> float:
        """Diameter of a spot in level-0 pixels."""

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """(h, w, 3): picture of the slide."""

    @property
    def run(self) -> dict[str, Any]:
        """Metadata of the run."""

    @property
    def units(self) -> str:
        """Units of the expression."""

    @property
    def reliability(self) -> GeneReliability | None:
        """How well each gene was predicted at held-out spots; None if not measured."""

    @property
    def n_spots(self) -> int:
        """Number of spots."""

    @property
    def spot_names(self) -> tuple[str, ...]:
        """N names."""

    @property
    def has_square_spots(self) -> bool:
        """True if spots are square."""

    def to_anndata(self) -> AnnData:
        """Return the table."""
