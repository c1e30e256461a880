"""How large a spot is drawn: as its file says, else half the pitch of its array."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.damaged import damage_as

LONE_SPOT_DIAMETER_PX = 100.0
"""Only drawn; a single spot has no spacing to tell its size."""
HEX_ROW = 3**0.5 / 2
"""Distance of two rows of a hexagonal array whose spots are 1 apart."""
MIN_HEX_ASPECT = 3**0.25
"""Between a step of row and of column: 1 of a square array, sqrt(3) of a hexagonal one."""


def named_diameter(scalefactors: object) -> float | None:
    """Space Ranger's ``spot_diameter_fullres`` in level-0 pixels, None where there is no such."""
    value = scalefactors.get("spot_diameter_fullres") if isinstance(scalefactors, dict) else None
    try:
        diameter = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return diameter if 0 < diameter < np.inf else None


def read_named_diameter(folder: Path) -> float | None:
    """The diameter of a folder's ``scalefactors_json.json``, None without; or ``SpotsError``."""
    path = folder / "scalefactors_json.json"
    if not path.is_file():
        return None
    with damage_as(SpotsError, f"{path}: not readable as JSON", "copy it again"):
        scalefactors = json.loads(path.read_text(encoding="utf-8"))
    return named_diameter(scalefactors)


def diameter_from_pitch(level0_xy: NDArray[np.float64], grid_rc: NDArray[np.int64]) -> float:
    """Half the distance of adjacent spots, from the affine map of (row, col) to centres (N, 2).

    A missing neighbour does not matter, as it would for distances. Of spots on one line, the
    line alone is measured.
    """
    if len(level0_xy) < 2:
        return LONE_SPOT_DIAMETER_PX
    centred_rc = grid_rc - grid_rc.mean(axis=0)
    centred_xy = level0_xy - level0_xy.mean(axis=0)
    if _is_hexagonal(centred_xy, centred_rc, grid_rc):
        centred_rc = centred_rc * (HEX_ROW, 0.5)
    fit, _, rank, _ = np.linalg.lstsq(centred_rc, centred_xy)
    if rank == 0:
        return LONE_SPOT_DIAMETER_PX
    pitch_px = np.linalg.svd(fit, compute_uv=False)[:rank]
    return float(pitch_px.mean()) / 2


def _is_hexagonal(
    centred_xy: NDArray[np.float64], centred_rc: NDArray[np.float64], grid_rc: NDArray[np.int64]
) -> bool:
    """Whether columns go in steps of 2, as Space Ranger's, and the rows lie that far apart."""
    if len(np.unique(grid_rc.sum(axis=1) % 2)) > 1:
        return False
    fit, _, rank, _ = np.linalg.lstsq(centred_rc, centred_xy)
    row_px, col_px = np.linalg.norm(fit, axis=1)
    return bool(rank < 2 or row_px > MIN_HEX_ASPECT * col_px)
