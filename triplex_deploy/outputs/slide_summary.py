"""What an index tells of one slide: small enough to keep for a thousand of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.colormaps import color_table
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.pictures import jpeg_base64
from triplex_deploy.outputs.prediction import Prediction

PICTURE_PX: Final = 260
"""Longest side of a card's picture."""
GENES_KEPT: Final = 300
"""Genes of strongest pattern that are kept per slide."""


@dataclass(frozen=True)
class GeneSummary:
    """One gene on one slide; ``moran`` is None where undefined."""

    name: str
    mean: float | None
    moran: float | None


@dataclass(frozen=True)
class SlideSummary:
    """A finished slide, or with ``error`` one that failed; pictures are JPEG as base64.

    ``genes`` come strongest spatial pattern first; ``map_jpeg`` shows the first of them.
    """

    slide_name: str
    error: str = ""
    n_spots: int = 0
    spots_per_s: float | None = None
    seconds: float | None = None
    size_mm: tuple[float, float] = (0.0, 0.0)
    genes: tuple[GeneSummary, ...] = ()
    tissue_jpeg: str = ""
    map_jpeg: str = ""

    @classmethod
    def failed(cls, slide_name: str, error: str) -> Self:
        """A slide without a prediction, and why."""
        return cls(slide_name, error=error or "failed for an unknown reason")

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Reduce a prediction to what a card shows."""
        moran = morans_i(prediction.expression, prediction.grid_rc)
        order = np.argsort(-np.nan_to_num(moran, nan=-np.inf), kind="stable")[:GENES_KEPT]
        picture = _shrink(prediction.thumbnail)
        timings = prediction.run.get("timings_s")
        width, height = (side * prediction.slide_mpp / 1000 for side in prediction.slide_size_wh)
        return cls(
            slide_name=prediction.slide_name,
            n_spots=prediction.n_spots,
            spots_per_s=_number(prediction.run.get("spots_per_s")),
            seconds=_number(timings.get("total")) if isinstance(timings, dict) else None,
            size_mm=(width, height),
            genes=tuple(
                GeneSummary(
                    prediction.genes[gene],
                    _number(prediction.expression[:, gene].mean()),
                    _number(moran[gene]),
                )
                for gene in order.tolist()
            ),
            tissue_jpeg=jpeg_base64(picture),
            map_jpeg=jpeg_base64(_map(prediction, int(order[0]), picture)) if len(order) else "",
        )


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    return np.asarray(small)


def _map(prediction: Prediction, gene: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One gene's spots drawn over the small picture."""
    from PIL import Image, ImageDraw

    values = prediction.expression[:, gene]
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    shades = np.nan_to_num((values - low) / ((high - low) or 1)).clip(0, 1)
    colors = color_table("viridis")[np.rint(shades * 255).astype(int)].tolist()
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    step = prediction.slide_size_wh[0] / picture.shape[1]
    radius = max(prediction.spot_diameter_px / 2 / step, 1.0)
    shape = draw.rectangle if prediction.has_square_spots else draw.ellipse
    for spot in np.flatnonzero(known).tolist():
        x, y = prediction.level0_xy[spot] / step
        shape((x - radius, y - radius, x + radius, y + radius), fill=tuple(colors[spot]))
    return np.asarray(canvas)


def _number(value: object) -> float | None:
    """A finite number to four significant digits, or None."""
    if not isinstance(value, int | float | np.floating) or not np.isfinite(value):
        return None
    return float(f"{float(value):.4g}")
