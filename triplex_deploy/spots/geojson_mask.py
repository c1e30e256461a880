"""Read regions of a slide from GeoJSON, as QuPath exports it, and draw them as a mask.

The format is RFC 7946. Coordinates are pixels of level 0, not degrees. QuPath crops a slide to the
part that was scanned, so that its coordinates begin at the corner of that part.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.escape import short_repr

logger = logging.getLogger(__name__)

SUFFIXES: Final = (".geojson", ".json", ".geojson.gz", ".json.gz")
MAX_BYTES: Final = 1 << 28
"""Largest text that is read; a slide's regions are far smaller."""
MAX_MASK_PX: Final = 4096
"""Longest side of the mask."""
MAX_OVERDRAW: Final = 500
"""Regions may cover the mask this often; more is damage, which would take hours to draw."""
MAX_COORDINATE: Final = 2.0**30
"""Far beyond any slide; larger numbers overflow when they are drawn."""
IGNORED: Final = "*"
"""QuPath's classes whose names end so, such as ``Ignore*``, mark what is to be left out."""
_MAX_NAMED: Final = 5
REMEDY: Final = "export it again from QuPath"

Ring = NDArray[np.float64]
"""A closed line (K, 2): x, y in level-0 pixels."""
Polygon = list[Ring]
"""The outer line and the lines of its holes."""


@dataclass(frozen=True)
class Regions:
    """The polygons that are drawn, and what else the file holds."""

    polygons: list[Polygon]
    """Polygons of the chosen class."""
    classes: tuple[str, ...]
    """Names of all classes in the file."""
    others: int
    """Number of geometries without an area, such as points and lines."""


def is_geojson(path: Path) -> bool:
    """Return True if the name of a file is that of GeoJSON."""
    return path.name.lower().endswith(SUFFIXES)


def draw_geojson(
    path: Path,
    size_wh: tuple[int, int],
    origin_xy: tuple[int, int] = (0, 0),
    chosen_class: str | None = None,
) -> NDArray[np.bool_]:
    """Return a mask (h, w) of the whole slide, True inside the regions of a file.

    Holes are left out. A line that crosses itself encloses what lies inside an odd number of its
    turns.

    Args:
        path: GeoJSON: a collection of features, a list of them, a feature or a geometry.
        size_wh: Width and height of the slide at level 0.
        origin_xy: Where the coordinates of the file begin, in level-0 pixels.
        chosen_class: Draw only regions of this class; None draws all but ignored ones.

    Raises:
        SpotsError: The file is not GeoJSON, has no such region, or lies outside the slide.
    """
    regions = read_regions(path, chosen_class)
    if regions.others:
        logger.warning("%s: %d points and lines have no area; left out", path, regions.others)
    scale = max(1.0, max(size_wh) / MAX_MASK_PX)
    mask = np.zeros([max(1, round(side / scale)) for side in reversed(size_wh)], np.bool_)
    per_px = np.array([size_wh[0] / mask.shape[1], size_wh[1] / mask.shape[0]])
    drawn_px = 0
    for polygon in regions.polygons:
        drawn_px += _draw(mask, [(ring + origin_xy) / per_px for ring in polygon])
        if drawn_px > MAX_OVERDRAW * mask.size:
            raise SpotsError(f"{path}: its regions cover the slide too often; {REMEDY}")
    if not mask.any():
        raise SpotsError(
            f"{path}: its regions lie outside the slide of {size_wh[0]}x{size_wh[1]} pixels; give "
            "coordinates in level-0 pixels of this image"
        )
    return mask


def read_regions(path: Path, chosen_class: str | None = None) -> Regions:
    """Read the polygons of a file; takes arguments of ``draw_geojson``, raises ``SpotsError``."""
    text = read_text(path, SpotsError, "mask file", "pass GeoJSON or a PNG", MAX_BYTES)
    with damage_as(SpotsError, f"{path}: not readable as GeoJSON", REMEDY):
        content = json.loads(text, parse_constant=_refuse_constant)
    found = list(_geometries(path, content))
    classes = tuple(sorted({name for name, _ in found if name is not None}))
    areas = [(name, geometry) for name, geometry in found if geometry["type"] in _AREAS]
    kept = [geometry for name, geometry in areas if _is_chosen(name, chosen_class)]
    if not kept:
        listed = ", ".join(map(short_repr, classes[:_MAX_NAMED])) or "none"
        what = "no region" if chosen_class is None else f"no region of class {chosen_class!r}"
        raise SpotsError(f"{path}: {what} (classes in it: {listed}); draw one, or correct the name")
    polygons = [polygon for geometry in kept for polygon in _polygons(path, geometry)]
    return Regions(polygons, classes, len(found) - len(areas))


_AREAS: Final = ("Polygon", "MultiPolygon")
_WITHOUT_AREA: Final = ("Point", "MultiPoint", "LineString", "MultiLineString")


def _geometries(path: Path, content: Any) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the name of the class and each geometry, in any depth of collections."""
    waiting: list[tuple[str | None, Any]] = [(None, content)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, list):
            waiting.extend((name, part) for part in reversed(item))
            continue
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "FeatureCollection":
            waiting.append((name, _listed(path, item, "features")))
        elif kind == "GeometryCollection":
            waiting.append((name, _listed(path, item, "geometries")))
        elif kind == "Feature":
            if item.get("geometry") is not None:
                waiting.append((_class_of(item), item["geometry"]))
        elif kind in (*_AREAS, *_WITHOUT_AREA):
            yield name, item
        else:
            raise SpotsError(f"{path}: {short_repr(kind)} is no kind of GeoJSON; {REMEDY}")


def _listed(path: Path, item: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(item.get(key), list):
        raise SpotsError(f"{path}: a {item['type']} without {key}; {REMEDY}")
    return list(item[key])


def _class_of(feature: dict[str, Any]) -> str | None:
    """Return the name of QuPath's class; derived classes are joined as QuPath shows them."""
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(found, dict):
        names = found.get("names")
        found = ": ".join(map(str, names)) if isinstance(names, list) else found.get("name")
    return found if isinstance(found, str) else None


def _is_chosen(name: str | None, chosen: str | None) -> bool:
    if chosen is not None:
        return name == chosen
    return name is None or not name.endswith(IGNORED)


def _polygons(path: Path, geometry: dict[str, Any]) -> Iterator[Polygon]:
    coordinates = geometry.get("coordinates")
    parts = coordinates if geometry["type"] == "MultiPolygon" else [coordinates]
    for part in parts if isinstance(parts, list) else [None]:
        if not isinstance(part, list) or not part:
            raise SpotsError(f"{path}: a {geometry['type']} without coordinates; {REMEDY}")
        yield [_ring(path, line) for line in part]


def _ring(path: Path, line: Any) -> Ring:
    with damage_as(SpotsError, f"{path}: the line of a polygon is not pairs of numbers", REMEDY):
        if not isinstance(line, list) or len(line) < 3:
            raise ValueError("fewer than 3 points")
        if not all(isinstance(point, list) and len(point) >= 2 for point in line):
            raise ValueError(short_repr(line[:2]))
        points = np.array([point[:2] for point in line])
        if points.dtype.kind not in "iuf":
            raise ValueError(short_repr(line[:2]))
        ring = points.astype(np.float64)
    if not (np.abs(ring) <= MAX_COORDINATE).all():
        raise SpotsError(f"{path}: a polygon has a coordinate that no slide has; {REMEDY}")
    return ring


def _draw(mask: NDArray[np.bool_], rings: Sequence[Ring]) -> int:
    """Add a polygon to the mask; return the number of pixels that were looked at.

    Rings are in pixels of the mask. Only the box around the polygon is drawn.
    """
    from PIL import Image, ImageDraw

    height, width = mask.shape
    corner = np.floor(rings[0].min(axis=0)).astype(np.int64).clip(0, (width, height))
    end = np.ceil(rings[0].max(axis=0)).astype(np.int64).clip(0, (width, height))
    box_wh = end - corner
    if (box_wh <= 0).any():
        return 0
    picture = Image.new("1", (int(box_wh[0]), int(box_wh[1])))
    pen = ImageDraw.Draw(picture)
    for ring, value in zip(rings, [1] + [0] * (len(rings) - 1), strict=True):
        # Pillow means the middle of a pixel by whole numbers.
        pen.polygon([tuple(point) for point in (ring - corner - 0.5).tolist()], fill=value)
    (left, top), (right, bottom) = corner, end
    mask[top:bottom, left:right] |= np.asarray(picture)
    return int(box_wh.prod())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
