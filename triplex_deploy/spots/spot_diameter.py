"""Find the diameter at which a spot is drawn: from its file, else half the pitch of its array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as

LONE_SPOT_DIAMETER_PX = 100.0
"""Diameter of a single spot, which has no pitch. It is used for drawing only."""
HEX_ROW = 3**0.5 / 2
"""Distance of two rows of a hexagonal array with spots at distance 1."""
MIN_HEX_ASPECT = 3**0.25
"""Least ratio of the row step to the column step of a hexagonal array.

The ratio is 1 for square and sqrt(3) for hexagonal arrays; this is halfway on a log scale."""


def only_library(spatial: object) -> dict[str, Any] | None:
    """Return the one library in ``uns["spatial"]`` of an h5ad, None if there is none or several.

    Files of cellxgene hold the flag ``is_single`` beside the library.
    """
    entries = spatial.values() if isinstance(spatial, Mapping) else ()
    libraries = [dict(entry) for entry in entries if isinstance(entry, Mapping)]
    return libraries[0] if len(libraries) == 1 else None


def named_diameter(scalefactors: object) -> float | None:
    """Return Space Ranger's ``spot_diameter_fullres`` in level-0 pixels, or None if absent."""
    value = scalefactors.get("spot_diameter_fullres") if isinstance(scalefactors, dict) else None
    try:
        diameter = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return diameter if 0 < diameter < np.inf else None


def read_named_diameter(folder: Path) -> float | None:
    """Return the diameter in a folder's ``scalefactors_json.json``, or None if there is none.

    Raises ``SpotsError`` if the file cannot be read.
    """
    path = folder / "scalefactors_json.json"
    if not path.is_file():
        return None
    with damage_as(SpotsError, f"{path}: not readable as JSON", "copy it again"):
        scalefactors = json.loads(path.read_text(encoding="utf-8-sig"))
    return named_diameter(scalefactors)


def diameter_from_pitch(level0_xy: NDArray[np.float64], grid_rc: NDArray[np.int64]) -> float:
    """Return half the distance of adjacent spots, in level-0 pixels.

    It is measured on the affine map fitted from array (row, column) to centers, both (N, 2), so
    spots may lack neighbors. If all spots lie on one line, only the step along it counts.
    """
    if len(level0_xy) < 2:
        return LONE_SPOT_DIAMETER_PX
    centered_rc = grid_rc - grid_rc.mean(axis=0)
    centered_xy = level0_xy - level0_xy.mean(axis=0)
    if is_hexagonal(level0_xy, grid_rc):
        centered_rc = centered_rc * (HEX_ROW, 0.5)
    fit, _, rank, _ = np.linalg.lstsq(centered_rc, centered_xy)
    if rank == 0:
        return LONE_SPOT_DIAMETER_PX
    pitch_px = np.linalg.svd(fit, compute_uv=False)[:rank]
    return float(pitch_px.mean()) / 2


def is_hexagonal(level0_xy: NDArray[np.float64], grid_rc: NDArray[np.int64]) -> bool:
    """Return True if columns go in steps of 2, as in Space Ranger, and rows lie as far apart.

    ``level0_xy`` and ``grid_rc`` are centers and array (row, column), both (N, 2).
    """
    if len(np.unique(grid_rc.sum(axis=1) % 2)) > 1:
        return False
    centered_rc = grid_rc - grid_rc.mean(axis=0)
    centered_xy = level0_xy - level0_xy.mean(axis=0)
    fit, _, rank, _ = np.linalg.lstsq(centered_rc, centered_xy)
    row_px, col_px = np.linalg.norm(fit, axis=1)
    return bool(rank < 2 or row_px > MIN_HEX_ASPECT * col_px)
