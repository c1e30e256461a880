"""Make the parts of a prediction's h5ad: images, metadata and the HDF5 file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.files.strict_json import to_strict_json

if TYPE_CHECKING:
    from anndata import AnnData

SCHEMA: Final = "triplex-prediction/1"
"""Name and version of the layout of the h5ad."""
LOWRES_MAX_PX: Final = 600
"""Longest side of the small image."""
OVERLAY_MAX_PX: Final = 800
"""Longest side of the stored tissue picture, from which a report can be made again."""
FIDUCIAL_PER_SPOT: Final = 105 / 65
"""Ratio of fiducial to spot diameter in Space Ranger's output; predictions have no fiducials."""


def spatial_entry(
    thumbnail: NDArray[np.uint8], slide_size_wh: tuple[int, int], spot_diameter_px: float
) -> dict[str, Any]:
    """Return images and scale factors under Space Ranger's names, for ``uns["spatial"][name]``."""
    lowres = _shrink(thumbnail, LOWRES_MAX_PX)
    longest_px = max(slide_size_wh)
    return {
        "images": {"hires": thumbnail, "lowres": lowres},
        "scalefactors": {
            "tissue_hires_scalef": max(thumbnail.shape[:2]) / longest_px,
            "tissue_lowres_scalef": max(lowres.shape[:2]) / longest_px,
            "spot_diameter_fullres": float(spot_diameter_px),
            "fiducial_diameter_fullres": spot_diameter_px * FIDUCIAL_PER_SPOT,
        },
    }


def metadata_entry(
    run: Mapping[str, Any],
    geometry: Mapping[str, Any],
    tissue_overlay: NDArray[np.uint8] | None,
) -> dict[str, Any]:
    """Return ``uns["triplex"]``: numbers, text and dicts of them as plain values.

    ``run_json`` holds all of ``run``, with lists and nulls too.
    """
    entry = _scalars(run)
    entry["schema"] = SCHEMA
    entry["run_json"] = to_strict_json(run)
    entry["geometry"] = dict(geometry)
    if tissue_overlay is not None:
        entry["tissue_overlay"] = _shrink(tissue_overlay, OVERLAY_MAX_PX)
    return entry


def h5ad_bytes(table: AnnData) -> bytes:
    """Return the content of an h5ad file.

    The file is built in memory, as HDF5 leaves a damaged file where the disk is full.
    """
    import anndata.io
    import h5py

    with io.BytesIO() as file:
        with h5py.File(file, "w") as root:
            anndata.io.write_elem(
                root, "/", table, dataset_kwargs={"compression": "gzip", "compression_opts": 1}
            )
            if table.raw is None:
                root.pop("raw", None)  # older versions of anndata cannot read an empty one
        return file.getvalue()


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if "/" in str(key):  # HDF5 would read the name as a path
            continue
        if isinstance(value, Mapping):
            plain[str(key)] = _scalars(value)
        elif isinstance(value, str | bool | int | float | np.generic):
            plain[str(key)] = value
    return plain


def _shrink(image: NDArray[np.uint8], max_px: int) -> NDArray[np.uint8]:
    """Area-average ``image`` (h, w, 3) so that its longest side is at most ``max_px``."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = max_px / max(height, width)
    if factor >= 1:
        return image
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BOX))
