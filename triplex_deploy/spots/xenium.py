"""Read where the cells of a Xenium output lie, and how its image lies on them.

``experiment.xenium`` is JSON with ``pixel_size``, the microns of a pixel of the morphology
image. Cells and transcripts are in microns of the same frame. The alignment file of Xenium
Explorer is a 3 x 3 matrix from pixels of the other image, here the H&E, to pixels of the
morphology image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.spots.vendor_json import positive_number

EXPERIMENT: Final = "experiment.xenium"
CELLS: Final = ("cells.parquet", "cells.csv.gz", "cells.csv")
CENTERS: Final = ("x_centroid", "y_centroid")
MAX_SHEAR: Final = 0.1
"""Largest relative difference of the two scales of an alignment; tissue is not stretched."""
_MAX_BYTES: Final = 1 << 20
_BELOW: Final = ("", "outs")
"""Where the output is, from the folder that the user names."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """How an image lies on a Xenium output."""

    um_to_level0: NDArray[np.float64]
    """(3, 3) matrix from Xenium's microns to level-0 pixels of the image."""
    mpp: float
    """Microns per level-0 pixel."""

    def level0(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (N, 2) level-0 pixels of points (N, 2) in Xenium's microns."""
        return np.asarray(xy_um @ self.um_to_level0[:2, :2].T + self.um_to_level0[:2, 2])


def xenium_outs(folder: Path) -> Path | None:
    """Return the folder that holds ``experiment.xenium``, None if this is no Xenium output."""
    for below in _BELOW:
        try:
            if (folder / below / EXPERIMENT).exists():
                return folder / below
        except OSError:  # a folder that cannot be entered
            continue
    return None


def find_alignment(folder: Path, given: Path | None) -> Path:
    """Return the alignment file: ``given``, or the only one in the folder.

    Raises:
        SpotsError: There is none or several.
    """
    if given is not None:
        return given
    places = [path for path in (folder, folder / "outs") if path.is_dir()]
    found = sorted({path for place in places for path in place.glob("*alignment*.csv")})
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found[:3]) or "none"
    raise SpotsError(
        f"{folder}: needs one alignment file of the H&E image, found {listed}; save it in Xenium "
        "Explorer and pass it with --alignment"
    )


def read_alignment(outs: Path, path: Path) -> Alignment:
    """Read the alignment of an image.

    Args:
        outs: The folder that holds ``experiment.xenium``.
        path: Alignment file of Xenium Explorer: 3 lines of 3 numbers.

    Raises:
        SpotsError: A file is missing or damaged, or the matrix is no alignment of a slide.
    """
    text = read_text(path, SpotsError, "alignment file", limit=_MAX_BYTES)
    rows = [line.split(",") for line in text.split("\n") if line.strip()]
    with damage_as(SpotsError, f"{path}: not a matrix of numbers", "save it again"):
        matrix = np.array([[float(cell) for cell in row] for row in rows])
    is_affine = matrix.shape == (3, 3) and np.isfinite(matrix).all()
    if not is_affine or not np.allclose(matrix[2], (0, 0, 1)):
        raise SpotsError(
            f"{path}: not a 3 x 3 matrix with the last line 0,0,1; save the alignment of the H&E "
            "image in Xenium Explorer"
        )
    scales = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not scales[1] > 0 or scales[0] / scales[1] > 1 + MAX_SHEAR:
        raise SpotsError(
            f"{path}: stretches the image, {scales[0]:.3g} by {scales[1]:.3g}; align it again"
        )
    pixel_um = positive_number(
        outs / EXPERIMENT, "Xenium experiment", "pixel_size", "copy it again"
    )
    to_um = np.diag([pixel_um, pixel_um, 1.0]) @ matrix
    return Alignment(np.linalg.inv(to_um), float(pixel_um * np.sqrt(scales.prod())))


def cells_path(outs: Path) -> Path:
    """Return the file of cells; raises ``SpotsError`` if there is none."""
    for name in CELLS:
        if (outs / name).exists():
            return outs / name
    raise SpotsError(f"{outs}: none of {', '.join(CELLS)}; copy one there")


def read_cells(outs: Path) -> NDArray[np.float64]:
    """Return the centers (N, 2) of the cells in Xenium's microns; raises ``SpotsError``."""
    from triplex_deploy.spots import table as columns  # imports pandas

    path = cells_path(outs)
    table = columns.read_table(path)
    missing = [name for name in CENTERS if name not in table.columns]
    if missing or table.empty:
        what = f"no column {', '.join(missing)}" if missing else "no cell"
        raise SpotsError(f"{path}: {what}; copy it again")
    return np.stack([columns.number_column(path, table, name) for name in CENTERS], axis=1)
