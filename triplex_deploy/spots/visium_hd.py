"""Find and read the bins of a Visium HD output of Space Ranger."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.scale import KnownArray, check_array_scale, square
from triplex_deploy.spots.vendor_json import positive_number

FOLDER_OF_BINS: Final = re.compile(r"square_(\d{3})um")
"""Name of Space Ranger's folder of one bin size."""
POSITIONS: Final = "spatial/tissue_positions.parquet"
SCALE: Final = "spatial/scalefactors_json.json"
_ABOVE: Final = ("", "binned_outputs", "outs/binned_outputs")
"""Where the folders of bins are, from the folder that the user names."""


@dataclass(frozen=True, eq=False)
class Bins:
    """The N bins of one size that are in tissue."""

    barcodes: tuple[str, ...]
    """Name of each bin."""
    level0_xy: NDArray[np.float64]
    """Centers (N, 2): x, y in level-0 pixels."""
    mpp: float
    """Microns per level-0 pixel."""
    bin_um: float
    """Side of a bin in microns."""

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """Return the centers (N, 2) in microns from the slide's corner."""
        return self.level0_xy * self.mpp


def is_visium_hd(folder: Path) -> bool:
    """Return True if a folder is a Visium HD output, or holds the bins of one size."""
    return bool(_folders_of_bins(folder))


def array_of_bins(bin_um: float) -> KnownArray:
    """Return the square array of bins of a size."""
    return square(f"Visium HD array of {bin_um:g} um bins", bin_um)


def find_bins(folder: Path, bin_um: int) -> Path:
    """Return the folder of the bins of one size.

    Args:
        folder: The output of Space Ranger, its ``outs``, ``binned_outputs``, or that folder itself.
        bin_um: Side of the bins in microns.

    Raises:
        SpotsError: There is none of this size.
    """
    found = _folders_of_bins(folder)
    if bin_um in found:
        return found[bin_um]
    listed = ", ".join(f"{size} um" for size in sorted(found)) or "none"
    raise SpotsError(
        f"{folder}: no square_{bin_um:03d}um of Visium HD (bins here: {listed}); pass the outs "
        "folder of Space Ranger, or another --bin"
    )


def read_bins(folder: Path, bin_um: int) -> Bins:
    """Read the bins in tissue.

    Args:
        folder: The folder of the bins of one size, see ``find_bins``.
        bin_um: Side of the bins in microns.

    Raises:
        SpotsError: A file is missing or damaged, or positions and scale contradict each other.
    """
    from triplex_deploy.spots import table as columns  # imports pandas

    path = folder / POSITIONS
    table = columns.with_known_names(path, columns.read_table(path))
    table = columns.kept_rows(path, table)
    grid_rc = columns.array_places(path, table)
    barcodes = columns.barcodes(path, table)
    level0_xy = columns.pixel_centers(path, table)
    if grid_rc is None or not barcodes:
        raise SpotsError(f"{path}: no column barcode, array_row or array_col; copy it again")
    remedy = "copy the file of Space Ranger 3 again"
    mpp = positive_number(folder / SCALE, "file of scale factors", "microns_per_pixel", remedy)
    try:
        check_array_scale(level0_xy, grid_rc, mpp, array_of_bins(bin_um))
    except SpotsError as error:
        raise SpotsError(f"{path}: {error}") from error
    return Bins(barcodes, level0_xy, mpp, float(bin_um))


def _folders_of_bins(folder: Path) -> dict[int, Path]:
    """Return the folders of bins by size."""
    named = FOLDER_OF_BINS.fullmatch(folder.absolute().name)
    found = {int(named[1]): folder} if named else {}
    for above in _ABOVE:
        with suppress(OSError):  # a folder that cannot be entered
            for path in sorted((folder / above).glob("square_*um")):
                size = FOLDER_OF_BINS.fullmatch(path.name)
                if size and path.is_dir():
                    found.setdefault(int(size[1]), path)
    return found
