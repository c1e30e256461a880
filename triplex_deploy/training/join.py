"""Join predicted spots with measured spots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.measured import Measurements
from triplex_deploy.errors import DatasetError
from triplex_deploy.outputs.prediction import Prediction

CENTERS: Final = "centers"
BARCODES: Final = "barcodes"
PLACES: Final = "array coordinates"

MAX_DISTANCE: Final = 0.1
"""Largest distance of the two centers of a spot, relative to that of neighboring spots."""
MIN_SHARE: Final = 0.5
"""Share of the smaller side that must find a partner."""
SAME_SCALE: Final = 0.02
"""Largest relative difference of scale between two files in the same frame of pixels."""

_PLACE: Final = re.compile(r"\d+(x\d+)?")
"""Pattern of names that only number spots; they mean different spots in different files."""


@dataclass(frozen=True, eq=False)
class Join:
    """Holds M pairs of a predicted and a measured spot."""

    predicted: NDArray[np.int64]
    """Indices (M,) of the predicted spots, ascending."""
    measured: NDArray[np.int64]
    """Indices (M,) of the measured spots."""
    by: str
    """How they were joined: ``centers``, ``barcodes`` or ``array coordinates``."""


def join_spots(truth: Path, prediction: Prediction, measured: Measurements) -> Join:
    """Join spots by their centers, else by barcode, else by array coordinates.

    Array coordinates are used only if those of the prediction came from a file. A layout and an
    inferred array number their rows and columns in another way.

    Args:
        truth: File of the measurements, for messages.
        prediction: The prediction.
        measured: The measurements.

    Returns:
        The pairs.

    Raises:
        DatasetError: Spots lie elsewhere, nothing can be joined, or few spots have a partner.
    """
    n_smaller = min(prediction.n_spots, len(measured.grid_rc))
    named = _by_name(prediction, measured)
    if measured.level0_xy is None:
        if named is None:
            raise DatasetError(
                f"{truth}: has no centers of spots and no barcodes that the prediction has, and "
                f"the prediction's array coordinates are {_places(prediction)}, so their numbers "
                'mean other spots; give an h5ad with level-0 centers in obsm["spatial"], or '
                "predict with --spots and the array coordinates of the measurement"
            )
        return _enough(truth, named, n_smaller, prediction, measured)
    near = _by_center(prediction, measured.level0_xy)
    if len(near.predicted) >= MIN_SHARE * n_smaller:
        return near
    if named is not None and len(named.predicted) >= MIN_SHARE * n_smaller:
        scale = _pure_scale(
            prediction.level0_xy[named.predicted], measured.level0_xy[named.measured]
        )
        if scale is None or abs(scale - 1) <= SAME_SCALE:
            raise DatasetError(
                f"{truth}: {len(named.predicted)} spots have the {named.by} of predicted spots, "
                f"but {len(named.predicted) - len(near.predicted)} of them lie elsewhere on the "
                "slide; give the measurement of this section, with level-0 (x, y) in pixels of "
                "this slide"
            )
        return named
    return _enough(truth, near, n_smaller, prediction, measured)


def _by_name(prediction: Prediction, measured: Measurements) -> Join | None:
    """Join by barcode, or else by array coordinates; return None if neither is possible."""
    theirs, ours = _barcodes(measured.barcodes), _barcodes(prediction.barcodes)
    if theirs and ours:
        joined = _by_key(ours, theirs, BARCODES)
        if len(joined.predicted):
            return joined
    if measured.has_places and _places(prediction) == "measured":
        return _by_key(prediction.spot_names, tuple(measured.row_of), PLACES)
    return None


def _places(prediction: Prediction) -> str:
    """Return ``measured``, ``inferred`` or ``laid out``."""
    recorded = prediction.run.get("array_places")
    if recorded is not None:
        return str(recorded)
    # earlier versions recorded only the layout
    return "measured" if prediction.run.get("layout", "file") == "file" else "laid out"


def _barcodes(names: Sequence[str]) -> Sequence[str]:
    """Return the names, or none if they only number the spots, or repeat."""
    if all(_PLACE.fullmatch(name) for name in names) or len(set(names)) < len(names):
        return ()
    return names


def _by_key(ours: Sequence[str], theirs: Sequence[str], by: str) -> Join:
    row_of = {name: row for row, name in enumerate(theirs)}
    predicted = [i for i, name in enumerate(ours) if name in row_of]
    measured = [row_of[ours[i]] for i in predicted]
    return Join(np.array(predicted, np.int64), np.array(measured, np.int64), by)


def _by_center(prediction: Prediction, measured_xy: NDArray[np.float64]) -> Join:
    """Join each predicted spot with the nearest measured spot, if each is the other's nearest."""
    from scipy.spatial import cKDTree

    predicted_xy = prediction.level0_xy
    pitches = [_pitch(xy) for xy in (predicted_xy, measured_xy) if len(xy) > 1]
    pitch = min(pitches, default=prediction.spot_diameter_px)
    distance, nearest = cKDTree(measured_xy).query(predicted_xy)
    _, back = cKDTree(predicted_xy).query(measured_xy)
    own = np.arange(len(predicted_xy))
    pairs = (distance <= MAX_DISTANCE * pitch) & (back[nearest] == own)
    return Join(own[pairs], nearest[pairs].astype(np.int64), CENTERS)


def _pitch(xy: NDArray[np.float64]) -> float:
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(xy).query(xy, k=2)
    return float(np.median(distances[:, 1]))


def _pure_scale(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float | None:
    """Return the factor that scales ``ours`` (N, 2) to ``theirs``, or None if it leaves a misfit.

    Spots of another section on the same kind of array are also shifted or rotated.
    """
    if len(ours) < 3:
        return None
    scale = float((ours * theirs).sum() / max(float((ours**2).sum()), 1e-12))
    misfit = np.linalg.norm(theirs - scale * ours, axis=1)
    return scale if float(misfit.max()) <= MAX_DISTANCE * _pitch(theirs) else None


def _enough(
    truth: Path, joined: Join, n_smaller: int, prediction: Prediction, measured: Measurements
) -> Join:
    found = len(joined.predicted)
    if found >= max(1.0, MIN_SHARE * n_smaller):
        return joined
    raise DatasetError(
        f"{truth}: {found} of its {len(measured.grid_rc)} spots are among the {prediction.n_spots} "
        f"predicted spots, by {joined.by}; give the measurement of this section, or predict with "
        "--spots and its positions"
    )
