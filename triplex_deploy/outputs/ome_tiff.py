"""Write predictions as OME-TIFF heatmaps: one float channel per gene, at the slide's scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.escape import xml_text
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.origin import ORIGIN, origin_json
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.raster import SpotRaster, rasterize
from triplex_deploy.outputs.units import UNKNOWN

TILE_PX: Final = 256
"""Side of the tiles of the file."""
UM_PER_CM: Final = 10_000


def write_ome_tiff(prediction: Prediction, path: str | Path, pixel_um: float | None = None) -> None:
    """Write a prediction as an OME-TIFF with a float32 channel for each gene, atomically.

    The raster starts at the corner of the slide, so that both cover each other when scaled by
    their pixel sizes. Pixels outside of spots are NaN.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.
        pixel_um: Pixel size in microns, None for an eighth of a spot.

    Raises:
        ConfigError: If the pixel size does not suit the slide.
        OutputError: If the file cannot be written.
    """
    import tifffile

    raster = rasterize(prediction, pixel_um)
    actual_um = raster.level0_per_px * prediction.slide_mpp
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            _tiles(prediction, raster),
            shape=(len(prediction.genes), *raster.owner.shape),
            dtype=np.float32,
            ome=True,
            bigtiff=True,
            photometric="minisblack",
            tile=(TILE_PX, TILE_PX),
            compression="zlib",
            resolution=(UM_PER_CM / actual_um, UM_PER_CM / actual_um),
            resolutionunit="CENTIMETER",
            software=ORIGIN,
            metadata=_ome(prediction, actual_um),
        )


def is_own_ome_tiff(path: Path) -> bool:
    """Return True if the software tag of a TIFF names this package."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.pages.first.software == ORIGIN)
    except (tifffile.TiffFileError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _ome(prediction: Prediction, pixel_um: float) -> dict[str, Any]:
    return {
        "axes": "CYX",
        "Name": xml_text(f"{prediction.slide_name}: predicted expression"),
        "Description": xml_text(prediction.units or UNKNOWN),
        "PhysicalSizeX": pixel_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": [xml_text(gene) for gene in prediction.genes]},
        "MapAnnotation": {"Namespace": ORIGIN, "prediction": xml_text(origin_json(prediction))},
    }


def _tiles(prediction: Prediction, raster: SpotRaster) -> Iterator[NDArray[np.float32]]:
    """Yield every tile of every channel in the order of the file, one picture at a time."""
    height, width = raster.owner.shape
    for values in prediction.expression.T:
        picture = raster.paint(values)
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                yield _padded(picture[top : top + TILE_PX, left : left + TILE_PX])


def _padded(part: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = [(0, TILE_PX - side) for side in part.shape]
    return np.pad(part, missing, constant_values=np.nan)


OME_TIFF: Final = FileFormat(
    "ome-tiff",
    ".ome.tif",
    "is a heatmap per gene at the slide's scale",
    write_ome_tiff,
    is_own_ome_tiff,
    has_pixels=True,
)
