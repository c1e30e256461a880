"""Write predictions as GeoJSON: one object per spot, as in QuPath 0.4 and later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.origin import ORIGIN, origin_json
from triplex_deploy.outputs.prediction import Prediction

CORNERS: Final = 24
"""Vertices of a round spot, for readers that do not know QuPath's ``isEllipse``."""
DIGITS: Final = 6
"""Significant digits of a measurement."""
HEAD: Final = '{"type":"FeatureCollection","' + ORIGIN + '":'
"""Start of every file that this package writes."""


def write_geojson(prediction: Prediction, path: str | Path, qupath_bounds: bool = False) -> None:
    """Write a prediction as a GeoJSON collection for QuPath, atomically.

    Each spot is one feature on one line, with coordinates in level-0 pixels. Spots of a grid are
    square ``tile`` objects, others round ``detection`` objects. Genes are measurements; a missing
    value is left out.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.
        qupath_bounds: Let coordinates begin at the scanned part of the slide, to which QuPath
            crops some slides, unless it opens them with ``--no-crop``.

    Raises:
        ConfigError: If the scanned part is asked for, but not recorded.
        OutputError: If the file cannot be written.
    """
    origin_xy = _scanned_xy(prediction) if qupath_bounds else np.zeros(2)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(f'{HEAD}{origin_json(prediction)},\n"features":[')
        between = "\n"
        for feature, measurements in zip(
            _features(prediction, origin_xy), _measurements(prediction), strict=True
        ):
            text = json.dumps(feature, separators=(",", ":"), allow_nan=False)
            stream.write(f'{between}{text[:-2]},"measurements":{measurements}}}}}')
            between = ",\n"
        stream.write("\n]}\n")


def is_own_geojson(path: Path) -> bool:
    """Return True if a file begins as ``write_geojson`` begins it."""
    with path.open("rb") as stream:
        return stream.read(len(HEAD)) == HEAD.encode()


def _scanned_xy(prediction: Prediction) -> NDArray[np.float64]:
    """Return the corner of the scanned part in level-0 pixels."""
    recorded = prediction.run.get("scanned_xy_px")
    if not isinstance(recorded, list) or not all(isinstance(side, int) for side in recorded):
        recorded = []
    if len(recorded) != 2:
        raise ConfigError(
            f"{prediction.slide_name}: where the scanned part begins was not recorded; predict "
            "again, or open the slide in QuPath with --no-crop"
        )
    return np.array(recorded, np.float64)


def _features(prediction: Prediction, origin_xy: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
    """Yield each spot as a feature without measurements."""
    square = prediction.has_square_spots
    outline = _outline(prediction.spot_diameter_px / 2, square)  # (K, 2)
    for spot, name in enumerate(prediction.spot_names):
        ring = np.round(prediction.level0_xy[spot] - origin_xy + outline, 2).tolist()
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [ring]}
        if not square:
            geometry["isEllipse"] = True
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE_URL, f"{ORIGIN}:{prediction.slide_name}/{name}")),
            "geometry": geometry,
            "properties": {
                "objectType": "tile" if square else "detection",
                "name": name,
            },
        }


def _outline(radius_px: float, square: bool) -> NDArray[np.float64]:
    """Return a closed ring around the origin, (K, 2), counter-clockwise if y points up."""
    if square:
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
        return radius_px * np.array(corners, np.float64)
    angle = np.linspace(0, 2 * np.pi, CORNERS + 1)
    return radius_px * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _measurements(prediction: Prediction) -> Iterator[str]:
    """Yield the measurements of each spot as JSON text.

    The text is built without ``json.dumps``, as there may be a million numbers.
    """
    keys = [json.dumps(gene, ensure_ascii=False) + ":" for gene in prediction.genes]
    for values in prediction.expression:
        known = np.isfinite(values).tolist()
        pairs = zip(keys, values.tolist(), known, strict=True)
        texts = [f"{key}{value:.{DIGITS}g}" for key, value, is_known in pairs if is_known]
        yield "{" + ",".join(texts) + "}"


GEOJSON: Final = FileFormat(
    "geojson", ".geojson", "opens in QuPath", write_geojson, is_own_geojson, has_bounds=True
)
