"""Summarize one slide for the index; small, as an index may have a thousand slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from triplex_deploy.outputs.cautions import in_short
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.pictures import jpeg_base64
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.spot_picture import draw_gene, shrink

PICTURE_PX: Final = 260
"""Longest side of the picture of a slide."""
GENES_KEPT: Final = 300
"""Maximum number of genes of a summary."""


@dataclass(frozen=True)
class GeneSummary:
    """One gene on one slide."""

    name: str
    """Symbol of the gene."""
    mean: float | None
    """Mean over the spots; None if undefined."""
    moran: float | None
    """Moran's I; None if undefined."""


@dataclass(frozen=True)
class SlideSummary:
    """A predicted slide, or a slide that failed."""

    slide_name: str
    """Name of the slide, in a subfolder with the path of that."""
    error: str = ""
    """Why the slide failed; empty if it is predicted."""
    n_spots: int = 0
    """Number of spots."""
    spots_per_s: float | None = None
    """Spots per second of the run."""
    seconds: float | None = None
    """Wall time of the run."""
    size_mm: tuple[float, float] = (0.0, 0.0)
    """Width and height of the slide."""
    genes: tuple[GeneSummary, ...] = ()
    """Genes with the strongest spatial pattern, strongest first."""
    tissue_jpeg: str = ""
    """Picture of the slide, as JPEG in base64."""
    map_jpeg: str = ""
    """Picture of the slide with the first gene drawn on it, as JPEG in base64."""
    caution: str = ""
    """What speaks against trusting the prediction, in a few words; empty if nothing does."""

    @classmethod
    def failed(cls, slide_name: str, error: str) -> Self:
        """Return the summary of a slide that failed."""
        return cls(slide_name, error=error or "failed for an unknown reason")

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """Return the summary of a prediction."""
        moran = morans_i(prediction.expression, prediction.grid_rc)
        order = np.argsort(-np.nan_to_num(moran, nan=-np.inf), kind="stable")[:GENES_KEPT]
        picture = shrink(prediction.thumbnail, PICTURE_PX)
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
            map_jpeg=jpeg_base64(draw_gene(prediction, int(order[0]), picture))
            if len(order)
            else "",
            caution=in_short(prediction.run),
        )


def _number(value: object) -> float | None:
    """Return a finite number with four significant digits; otherwise None."""
    if not isinstance(value, int | float | np.floating) or not np.isfinite(value):
        return None
    return float(f"{float(value):.4g}")
