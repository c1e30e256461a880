"""Collect the data that the scripts of the report read: spots, genes and colors."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs.color_range import comparable_ranges
from triplex_deploy.outputs.colormaps import SCALES, color_table
from triplex_deploy.outputs.held_out import json_numbers
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.pictures import array_base64
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.quantize import QuantizedGenes
from triplex_deploy.outputs.zoom_tiles import ZoomTiles
from triplex_deploy.reliability import GeneReliability

DIGITS: Final = 4
"""Decimals of correlations and of Moran's I."""


def report_data(
    prediction: Prediction,
    quantized: QuantizedGenes,
    moran: NDArray[np.float64],
    measured: Measured | None = None,
    measured_codes: QuantizedGenes | None = None,
    zoom: ZoomTiles | None = None,
    n_sets: int = 0,
) -> dict[str, Any]:
    """Return the data of the report without the codes, as JSON values.

    Arrays are little-endian bytes in base64.
    """
    width, height = prediction.slide_size_wh
    genes = {
        "names": prediction.genes,
        "moran": _known(moran),
        "sets": n_sets,
        **_ranges(quantized, prediction.expression),
    }
    if prediction.reliability is not None:
        genes |= _reliability(prediction.reliability)
    beside: dict[str, Any] | None = None
    if measured is not None and measured_codes is not None:
        genes["pcc"] = _known(measured.pcc)
        beside = _ranges(measured_codes, measured.values)
    return {
        "slide": {
            "name": prediction.slide_name,
            "width": width,
            "height": height,
            "mpp": prediction.slide_mpp,
        },
        "zoom": None if zoom is None else zoom.data(),
        "spots": {
            "diameter": prediction.spot_diameter_px,
            "square": prediction.has_square_spots,
            "xy": array_base64(prediction.level0_xy.astype("<f4")),
            "rc": array_base64(prediction.grid_rc.astype("<i4")),
        },
        "genes": genes,
        "measured": beside,
        "scales": {name: array_base64(color_table(name)) for name in SCALES},
    }


def _reliability(known: GeneReliability) -> dict[str, Any]:
    return {
        "heldout": json_numbers(known.pcc),
        "heldout_low": json_numbers(known.pcc_low),
        "heldout_high": json_numbers(known.pcc_high),
        "heldout_rmse": json_numbers(known.rmse),
        "ceiling": json_numbers(known.pcc_ceiling),
        "supported": known.is_supported.tolist(),
    }


def _ranges(quantized: QuantizedGenes, values: NDArray[np.float32]) -> dict[str, Any]:
    """Return the smallest and largest value of each gene, and those of its first and last color."""
    first, last = comparable_ranges(values)
    return {
        "first": first.tolist(),
        "last": last.tolist(),
        "low": quantized.low.tolist(),
        "high": quantized.high.tolist(),
        "bytes": quantized.codes.dtype.itemsize,
    }


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [round(value, DIGITS) if np.isfinite(value) else None for value in values.tolist()]
