"""Read a SpatialData store: where its image, cells and transcripts lie, in pixels of the image.

The package spatialdata-io writes such stores for most technologies. Elements have frames of their
own; the store says how each lies on its color image, whose pixels are level 0 here.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.install import install_command
from triplex_deploy.slides.zarr_blosc import require_whole_chunks
from triplex_deploy.slides.zarr_metadata import PLAIN_CODECS, SHARDS
from triplex_deploy.spots.pooling import (
    DEFAULT_BIN_UM,
    Pooled,
    Pooling,
    places_of_bins,
    places_of_cells,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

COLORS: Final = 3
HARMLESS: Final = PLAIN_CODECS | {SHARDS, "vlen-utf8", "vlen-bytes", "vlen-array"}
"""Codecs that run no code of the file; ``pickle`` would."""
MAX_JSON_BYTES: Final = 1 << 26
PICTURES: Final = ("images", "labels")
"""Elements of which no chunk is read here; a slide checks its own."""
REMEDY: Final = "write the store again with spatialdata"
FEATURES: Final = "feature_key"
"""Attribute of points that names the column of genes."""
BINS: Final = re.compile(r"square_(\d{3})um")
"""Name that spatialdata-io gives to a table of Visium HD bins, by their size in microns."""
PREVIEWS: Final = ("_hires_image", "_lowres_image", "_cytassist_image")
"""Ends of the names that it gives to pictures which are no slide at its full resolution."""


@dataclass(frozen=True)
class StoreImage:
    """The color image of a store."""

    name: str
    """Name of the element."""
    folder: Path
    """Its OME-Zarr image, which is a slide."""
    size_wh: tuple[int, int]
    """Width and height of its finest level."""


class SpatialStore:
    """A SpatialData store with one color image, and points or an annotating table.

    Args:
        path: Folder of the store.
        bin_um: Size of the Visium HD bins that are taken, if the store has several tables.

    Raises:
        SpotsError: It is no such store, it is damaged, or spatialdata is not installed.
    """

    def __init__(self, path: Path, bin_um: int = DEFAULT_BIN_UM) -> None:
        self.path = path
        self.bin_um = bin_um
        _require_harmless(path)
        try:
            import spatialdata
        except ImportError as error:
            raise SpotsError(
                f"{path}: needs the package spatialdata; run `{install_command('files')}`"
            ) from error
        with _quiet(), damage_as(SpotsError, f"{path}: not a readable SpatialData store", REMEDY):
            self._data: SpatialData = spatialdata.read_zarr(path)
        self.image = self._find_image()

    @cached_property
    def points(self) -> str | None:
        """Return the name of the only element of points with genes; None if there is none."""
        found = [
            name
            for name, points in self._data.points.items()
            if points.attrs.get("spatialdata_attrs", {}).get(FEATURES)
        ]
        if len(found) > 1:
            raise SpotsError(
                f"{self.path}: several points have genes, {', '.join(sorted(found))}; keep one"
            )
        return found[0] if found else None

    @cached_property
    def table(self) -> AnnData | None:
        """Return the table of shapes, of several that of the chosen bins; None without one."""
        return None if self._table_name is None else self._data.tables[self._table_name]

    @cached_property
    def _table_name(self) -> str | None:
        found = sorted(
            name
            for name, table in self._data.tables.items()
            if isinstance(_region(table), str) and _region(table) in self._data.shapes
        )
        of_bins = f"square_{self.bin_um:03d}um"
        if len(found) > 1 and of_bins not in found:
            raise SpotsError(
                f"{self.path}: holds several tables of shapes, {', '.join(found)}; keep one"
            )
        return of_bins if of_bins in found else found[0] if found else None

    def counted_table(self) -> AnnData:
        """Return the table of shapes; raises ``SpotsError`` if there is none."""
        if self.table is None:
            others = ", ".join(sorted(self._data.tables))
            known = f" (no shapes of it belong to {others})" if others else ""
            raise SpotsError(
                f"{self.path}: neither points with genes nor a table of shapes{known}; write the "
                "store again with one of them"
            )
        return self.table

    def pooled(self, pooling: Pooling, mpp: float) -> Pooled:
        """Return the spots in tissue, by the bins of Visium HD, else by cells or points.

        Args:
            pooling: The lattice.
            mpp: Microns per level-0 pixel.
        """
        xy_um = self.centers() * mpp
        bins = BINS.fullmatch(self._table_name or "")
        if bins is not None:
            return places_of_bins(pooling, xy_um, int(bins[1]))
        return places_of_cells(pooling, xy_um)

    def batches(self) -> Iterator[pd.DataFrame]:
        """Yield the points as tables with x_location and y_location in level-0 pixels.

        ``feature_name`` is the gene; the other columns are those of the store.
        """
        assert self.points is not None
        points = self._data.points[self.points]
        genes = points.attrs["spatialdata_attrs"][FEATURES]
        matrix = self._to_level0(points)
        what = f"{self.path}: points {self.points} cannot be read"
        for part in points.partitions:
            with _quiet(), damage_as(SpotsError, what, REMEDY):
                table = part.compute()
                xy = table[["x", "y"]].to_numpy(np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
                table = table.drop(columns=["x", "y"]).rename(columns={genes: "feature_name"})
                table = table.assign(x_location=xy[:, 0], y_location=xy[:, 1])
            yield table

    def centers(self) -> NDArray[np.float64]:
        """Return level-0 centers (N, 2): of the rows of the table, or of all points without one."""
        if self.table is None and self.points is not None:
            parts = [part[["x_location", "y_location"]].to_numpy() for part in self.batches()]
            return np.concatenate(parts).astype(np.float64)
        table = self.counted_table()
        shapes = self._data.shapes[str(_region(table))]
        key = table.uns["spatialdata_attrs"]["instance_key"]
        what = f"{self.path}: the table's instances are not those of its shapes"
        with _quiet(), damage_as(SpotsError, what, REMEDY):
            chosen = shapes.loc[table.obs[key].to_numpy()]
            if len(chosen) != table.n_obs:
                raise ValueError(f"{len(chosen)} shapes for {table.n_obs} rows")
            centers = chosen.geometry.centroid
            xy = np.stack([centers.x.to_numpy(), centers.y.to_numpy()], axis=1)
        matrix = self._to_level0(shapes)
        return np.asarray(xy @ matrix[:2, :2].T + matrix[:2, 2], np.float64)

    def _find_image(self) -> StoreImage:
        found = []
        previews = [name for name in self._data.images if name.endswith(PREVIEWS)]
        for name, element in self._data.images.items():
            if name in previews:
                continue
            image = element
            if hasattr(element, "children"):  # a pyramid
                image = next(iter(element["scale0"].values()))
            length = dict(zip(image.dims, image.shape, strict=True))
            if length.get("c") == COLORS and image.dtype == np.uint8:
                found.append((length["x"] * length["y"], str(name), (length["x"], length["y"])))
        if not found and previews:
            raise SpotsError(
                f"{self.path}: only small pictures of the slide ({', '.join(sorted(previews))}); "
                "write the store again with the full-resolution image"
            )
        if not found:
            raise SpotsError(f"{self.path}: no image in RGB with 8 bits; add the H&E image to it")
        _, name, size_wh = max(found)
        return StoreImage(name, self.path / "images" / name, size_wh)

    def _to_level0(self, element: Any) -> NDArray[np.float64]:
        """Return the (3, 3) matrix from the frame of an element to level-0 pixels."""
        from spatialdata.transformations import get_transformation_between_coordinate_systems

        what = f"{self.path}: does not say how its data lie on the image {self.image.name}"
        with _quiet(), damage_as(SpotsError, what, "align them, such as with napari-spatialdata"):
            between = get_transformation_between_coordinate_systems(
                self._data, element, self._data.images[self.image.name]
            )
            matrix = between.to_affine_matrix(("x", "y"), ("x", "y"))
            if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
                raise ValueError("the transformation has no inverse")
        return np.asarray(matrix, np.float64)


def is_spatial_store(path: Path) -> bool:
    """Return True for a folder with the elements of a SpatialData store."""
    try:
        is_group = any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
        return is_group and any((path / name).is_dir() for name in ("points", "tables", "table"))
    except OSError:  # a folder that cannot be entered
        return False


def _region(table: AnnData) -> object:
    region = table.uns.get("spatialdata_attrs", {}).get("region")
    return region[0] if isinstance(region, list) and len(region) == 1 else region


def _require_harmless(path: Path) -> None:
    """Refuse arrays with codecs that could run code, or whose chunks could end the process."""
    for name in (".zarray", "zarr.json"):
        for file in path.rglob(name):
            text = read_text(file, SpotsError, "file of Zarr", limit=MAX_JSON_BYTES)
            with damage_as(SpotsError, f"{file}: not readable as JSON", "copy it again"):
                codecs = set(_codecs(json.loads(text)))
            if wrong := sorted(codecs - HARMLESS):
                raise SpotsError(f"{file}: the codec {wrong[0]!r} is not used here; {REMEDY}")
            if "blosc" not in codecs or file.relative_to(path).parts[0] in PICTURES:
                continue
            if SHARDS in codecs:
                raise SpotsError(f"{file}: a table in shards of Blosc cannot be checked; {REMEDY}")
            with damage_as(SpotsError, f"{file.parent}: damaged", "copy it again"):
                require_whole_chunks(file.parent)


def _codecs(content: Any) -> Iterator[str]:
    """Yield the names of all codecs below a value of JSON."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            for key in ("codecs", "index_codecs", "filters", "compressor"):
                listed = item.get(key)
                for codec in listed if isinstance(listed, list) else [listed]:
                    if isinstance(codec, dict) and ("id" in codec or "name" in codec):
                        yield str(codec.get("id", codec.get("name")))
            waiting.extend(item.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings about calls within spatialdata and its libraries."""
    log = logging.getLogger("ome_zarr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
