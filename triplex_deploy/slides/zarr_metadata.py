"""Read what an OME-Zarr folder says of its image, and refuse what no slide is.

NGFF 0.4 is Zarr 2 with ``.zattrs``; NGFF 0.5 is Zarr 3 with ``zarr.json``. Only the JSON is read
here, so that nothing is decoded before codecs and sizes are known to be harmless.
https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from triplex_deploy.errors import SlideError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.slides.slide_files import ZARR_ATTRIBUTES, ZARR_V3

MAX_JSON_BYTES: Final = 1 << 24
MAX_LEVELS: Final = 32
MAX_CHUNK_BYTES: Final = 1 << 28
"""Most bytes of a decoded chunk; common ones have less than 4 MB."""
UM_PER: Final = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}
"""Microns of the units of space that are used."""
PLAIN_CODECS: Final = frozenset(
    ("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "bytes", "crc32c", "transpose")
)
"""Codecs that only decompress. Others could run code (``pickle``), or need their own library."""
SHARDS: Final = "sharding_indexed"
LAYOUT: Final = "bioformats2raw.layout"
"""Attribute of a folder with several images, 0, 1, ..."""
REMEDY: Final = "write the image again as OME-Zarr"


@dataclass(frozen=True)
class ZarrLevel:
    """A level of the pyramid."""

    folder: Path
    """Folder of the array."""
    shape: tuple[int, ...]
    """Lengths of the axes."""
    chunks: tuple[int, ...]
    """Lengths of a chunk, or of the inner chunks of a shard."""
    scale: tuple[float, ...]
    """Size of a pixel along each axis, in the units of the axes."""


@dataclass(frozen=True)
class ZarrImage:
    """An image with its axes and levels, finest first."""

    axes: tuple[str, ...]
    """Names of the axes, such as t, c, z, y, x."""
    units: tuple[str | None, ...]
    """Unit of each axis."""
    levels: tuple[ZarrLevel, ...]

    def size_wh(self, level: int) -> tuple[int, int]:
        """Return width and height of a level in pixels."""
        shape = self.levels[level].shape
        return shape[self.axes.index("x")], shape[self.axes.index("y")]

    @property
    def um_xy(self) -> tuple[float, float] | None:
        """Return microns per pixel along x and y; None if a unit is not one of length."""
        found = []
        for axis in ("x", "y"):
            i = self.axes.index(axis)
            um = UM_PER.get(self.units[i] or "")
            if um is None:
                return None
            found.append(self.levels[0].scale[i] * um)
        return found[0], found[1]


def read_zarr_image(path: Path) -> ZarrImage:
    """Return the image of an OME-Zarr folder.

    Of a folder with several images the largest is taken, as of a TIFF with label and overview.

    Raises:
        SlideError: The folder is damaged, is no RGB image, or two images could be the slide.
    """
    if names := _images_of_store(path):
        raise SlideError(
            f"{path}: a SpatialData store is no slide; pass an image in it: {', '.join(names)}"
        )
    attributes = _attributes(path)
    if LAYOUT not in attributes:
        return _image(path, path, attributes)
    found = []
    for folder in sorted(path.iterdir()):
        if folder.name.isdecimal() and folder.is_dir():
            found.append(_image(path, folder, _attributes(folder)))
    found.sort(key=lambda image: math.prod(image.size_wh(0)), reverse=True)
    if not found:
        raise SlideError(f"{path}: no image in it; {REMEDY}")
    if len(found) > 1 and 2 * math.prod(found[1].size_wh(0)) > math.prod(found[0].size_wh(0)):
        raise SlideError(f"{path}: holds several images; pass the folder of one, such as {path}/0")
    return found[0]


def _images_of_store(path: Path) -> list[str]:
    """Return the images of a SpatialData store; none of another folder."""
    images = path / "images"
    if not images.is_dir():
        return []
    return [str(folder) for folder in sorted(images.iterdir()) if folder.is_dir()]


def _attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a group; those of NGFF 0.5 lie below ``ome``."""
    if (folder / ZARR_V3).exists():
        attributes = _json(folder / ZARR_V3).get("attributes", {})
        found = attributes.get("ome") if isinstance(attributes, dict) else None
    else:
        found = _json(folder / ZARR_ATTRIBUTES)
    if not isinstance(found, dict):
        raise SlideError(f"{folder}: no OME metadata; {REMEDY}")
    return found


def _image(path: Path, folder: Path, attributes: dict[str, Any]) -> ZarrImage:
    images = attributes.get("multiscales")
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        what = "a plate" if "plate" in attributes else "not one multiscale image"
        raise SlideError(f"{path}: is {what}; pass the folder of one image")
    with damage_as(SlideError, f"{path}: wrong OME metadata", REMEDY):
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in images[0]["axes"]]
        names = tuple(str(axis["name"]) for axis in axes)
        units = tuple(axis.get("unit") for axis in axes)
        common = _scale(images[0].get("coordinateTransformations"), len(axes))
        datasets = images[0]["datasets"][: MAX_LEVELS + 1]
        levels = tuple(
            _level(_below(folder, str(data["path"])), _scale_of(data, common)) for data in datasets
        )
    _require_plain(path, names, levels)
    return ZarrImage(names, units, levels)


def _scale_of(data: dict[str, Any], common: tuple[float, ...]) -> tuple[float, ...]:
    own = _scale(data.get("coordinateTransformations"), len(common))
    return tuple(a * b for a, b in zip(own, common, strict=True))


def _scale(transformations: Any, n_axes: int) -> tuple[float, ...]:
    """Return the product of the scales; translations do not matter.

    Transformations that NGFF does not know, such as those of SpatialData, leave the scale unknown.
    """
    scale = [1.0] * n_axes
    for step in transformations or ():
        if step["type"] == "scale":
            factors = [float(factor) for factor in step["scale"]]
            if len(factors) != n_axes:
                raise ValueError(f"{len(factors)} scales for {n_axes} axes")
            scale = [a * b for a, b in zip(scale, factors, strict=True)]
        elif step["type"] not in ("identity", "translation"):
            return (math.nan,) * n_axes
    return tuple(scale)


def _below(folder: Path, name: str) -> Path:
    """Return a path inside ``folder``; ``SlideError`` if it leads out of it."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise SlideError(f"{folder}: the path {name!r} leads out of it; {REMEDY}")
    return folder / parts


def _level(folder: Path, scale: tuple[float, ...]) -> ZarrLevel:
    if (folder / ZARR_V3).exists():
        array = _json(folder / ZARR_V3)
        kind = array["data_type"]
        grid = array["chunk_grid"]
        if grid["name"] != "regular":
            raise ValueError(f"chunks {grid['name']!r}")
        stored = grid["configuration"]["chunk_shape"]
        chunks = _require_plain_codecs(array["codecs"]) or stored
    else:
        array = _json(folder / ".zarray")
        kind, stored = str(array["dtype"]).lstrip("|<>="), array["chunks"]
        chunks = stored
        _require_plain_codecs([*(array.get("filters") or ()), *_some(array.get("compressor"))])
    if kind not in ("uint8", "u1"):
        raise SlideError(f"{folder}: its pixels are {kind}; write the image with 8 bits and RGB")
    shape = tuple(int(length) for length in array["shape"])
    for lengths in (stored, chunks):
        if min(lengths) < 1 or math.prod(map(int, chunks)) > MAX_CHUNK_BYTES:
            raise ValueError(f"chunks of {'x'.join(map(str, lengths))}")
    if not shape or min(shape) < 1 or len(shape) != len(stored) or len(shape) != len(scale):
        raise ValueError(f"shape {shape} with chunks {stored}")
    return ZarrLevel(folder, shape, tuple(int(length) for length in chunks), scale)


def _some(codec: Any) -> list[Any]:
    return [] if codec is None else [codec]


def _require_plain_codecs(codecs: list[dict[str, Any]]) -> list[int] | None:
    """Refuse codecs that do more than decompress; return the inner chunks of a shard, if any."""
    inner = None
    for codec in codecs:
        name = codec.get("id", codec.get("name"))
        if name == SHARDS:
            settings = codec["configuration"]
            inner = settings["chunk_shape"]
            _require_plain_codecs([*settings["codecs"], *settings.get("index_codecs", ())])
        elif name not in PLAIN_CODECS:
            raise ValueError(f"codec {name!r} is not one of {', '.join(sorted(PLAIN_CODECS))}")
    return inner


def _require_plain(path: Path, axes: tuple[str, ...], levels: tuple[ZarrLevel, ...]) -> None:
    """Refuse what is not one flat picture in RGB or gray."""
    if not {"x", "y"} <= set(axes) <= set("tczyx") or len(set(axes)) < len(axes):
        raise SlideError(f"{path}: its axes are {', '.join(axes)}; {REMEDY} of x, y and colors")
    if not 0 < len(levels) <= MAX_LEVELS:
        raise SlideError(f"{path}: has no level, or more than {MAX_LEVELS}; {REMEDY}")
    for level in levels:
        length = dict(zip(axes, level.shape, strict=True))
        if length.get("t", 1) > 1 or length.get("z", 1) > 1:
            raise SlideError(f"{path}: is a stack or a series in time; pass one plane in RGB")
        if length.get("c", 1) not in (1, 3):
            raise SlideError(
                f"{path}: has {length['c']} channels; H&E slides have three, red, green and blue"
            )


def _json(path: Path) -> dict[str, Any]:
    text = read_text(path, SlideError, "file of OME-Zarr", limit=MAX_JSON_BYTES)
    with damage_as(SlideError, f"{path}: not readable as JSON", "copy it again"):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise SlideError(f"{path}: holds no names with values; copy it again")
    return content
