"""Write predictions as a SpatialData Zarr store: picture, spots and table of a slide."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_folder
from triplex_deploy.files.ours import first_foreign
from triplex_deploy.install import install_command
from triplex_deploy.outputs.drawable import Drawable
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.origin import ORIGIN, origin_json

if TYPE_CHECKING:
    from spatialdata import SpatialData

PICTURE: Final = "thumbnail"
"""Name of the image."""
SPOTS: Final = "spots"
"""Name of the shapes."""
TABLE: Final = "expression"
"""Name of the table."""
LEVEL0: Final = "global"
"""Name of SpatialData's default coordinate system; here it is level-0 pixels."""


def write_spatialdata(prediction: Drawable, path: str | Path) -> None:
    """Write a prediction as a SpatialData Zarr store, a folder, atomically.

    Args:
        prediction: What to write.
        path: Folder to write; an existing store is replaced.

    Raises:
        OutputError: If the folder cannot be written.
    """
    with atomic_folder(path) as temporary, _without_advice_to_developers():
        to_spatialdata(prediction).write(temporary)


def to_spatialdata(prediction: Drawable) -> SpatialData:
    """Return the store in memory: image ``thumbnail``, circles ``spots``, table ``expression``.

    The coordinate system ``global`` is in level-0 pixels; the image has a scale to it. Spots are
    circles with the spot diameter, also the square tiles of a grid.

    Raises:
        OutputError: If spatialdata is not installed.
    """
    try:
        import geopandas as gpd
        from shapely import points
        from spatialdata import SpatialData
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale
    except ModuleNotFoundError as error:
        raise OutputError(
            f"spatialdata: {error.name} is not installed; run `{install_command('files')}`"
        ) from error

    height, width = prediction.thumbnail.shape[:2]
    slide_width, slide_height = prediction.slide_size_wh
    to_level0 = Scale([slide_width / width, slide_height / height], axes=("x", "y"))
    image = Image2DModel.parse(
        np.moveaxis(prediction.thumbnail, 2, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={LEVEL0: to_level0},
    )
    frame = gpd.GeoDataFrame(
        {"radius": np.full(prediction.n_spots, prediction.spot_diameter_px / 2)},
        geometry=points(prediction.level0_xy),
        index=list(prediction.spot_names),
    )
    shapes = ShapesModel.parse(frame, transformations={LEVEL0: Identity()})
    table = prediction.to_anndata()
    del table.uns["spatial"]  # the picture is an image of the store
    table.obs["region"] = np.array([SPOTS] * prediction.n_spots, object)
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["spot"] = table.obs_names.to_numpy()
    table = TableModel.parse(table, region=SPOTS, region_key="region", instance_key="spot")
    return SpatialData(
        images={PICTURE: image},
        shapes={SPOTS: shapes},
        tables={TABLE: table},
        attrs={ORIGIN: origin_json(prediction)},
    )


@contextmanager
def _without_advice_to_developers() -> Iterator[None]:
    """Hide warnings about SpatialData's own calls, which come once for every array."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*`Scaler` class", category=DeprecationWarning)
        yield


_KINDS: Final = ("", "images/", "labels/", "points/", "shapes/", "tables/")
_OWN_FILES: Final = (
    *(f"{kind}{name}" for kind in _KINDS for name in ("zarr.json", ".z*")),
    f"images/{PICTURE}/*",
    f"shapes/{SPOTS}/*",
    f"tables/{TABLE}/*",
)
"""All files of a store of ours; elements that the user has added are not among them."""


def is_own_spatialdata(path: Path) -> bool:
    """Return True if the attributes of a Zarr folder name this package, and nothing was added."""
    try:
        content = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    attributes = content.get("attributes") if isinstance(content, dict) else None
    is_marked = isinstance(attributes, dict) and ORIGIN in attributes
    return is_marked and first_foreign(path, _OWN_FILES) is None


SPATIALDATA: Final = FileFormat(
    "spatialdata",
    ".spatialdata.zarr",
    "is a Zarr store",
    write_spatialdata,
    is_own_spatialdata,
    library="spatialdata",
    is_folder=True,
)
