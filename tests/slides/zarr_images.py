"""Write small OME-Zarr images of NGFF 0.4 and 0.5."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
]


def write_ome_zarr(
    path: Path, rgb: np.ndarray, version: str = "0.5", um: float = 0.5, **array: Any
) -> Path:
    """Write two levels as (c, y, x) in chunks of 64; return ``path``."""
    zarr_format: Any = 3 if version == "0.5" else 2
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for number in (0, 1):
        planes = np.moveaxis(rgb[:: 1 + number, :: 1 + number], 2, 0)
        options = {"chunks": (1, 64, 64), **array}
        group.create_array(str(number), data=np.ascontiguousarray(planes), **options)
    write_metadata(path, multiscale(um), version)
    return path


def multiscale(um: float = 0.5, axes: Any = AXES) -> dict[str, Any]:
    space = [1.0] * (len(axes) - 2)
    return {
        "axes": axes,
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*space, um * 2**number, um * 2**number]}
                ],
            }
            for number in (0, 1)
        ],
    }


def write_metadata(path: Path, image: dict[str, Any], version: str) -> None:
    """Replace the attributes of a group."""
    if version == "0.5":
        content = json.loads((path / "zarr.json").read_text())
        content["attributes"] = {"ome": {"version": "0.5", "multiscales": [image]}}
        (path / "zarr.json").write_text(json.dumps(content))
    else:
        (path / ".zattrs").write_text(json.dumps({"multiscales": [{**image, "version": "0.4"}]}))
