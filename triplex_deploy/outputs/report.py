"""One HTML file per slide that shows every predicted gene on the tissue, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.outputs import facts
from triplex_deploy.outputs.atomic import atomic_path
from triplex_deploy.outputs.colormaps import WAYPOINTS, color_table
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.quantise import QuantisedGenes, quantise

OVERLAY_PX: Final = 800
"""Longest side of the tissue picture."""
JPEG_QUALITY: Final = 82
LEAST_PATTERN: Final = 0.05
"""Moran's I below which a map is as good as noise."""
TOP_GENES: Final = 10


def write_report(
    prediction: Prediction, path: str | Path, genes: Sequence[str] | None = None
) -> None:
    """Write the report of ``prediction``, or of its ``genes`` alone, atomically.

    Raises ``ConfigError`` for an unknown gene and ``OutputError`` where it cannot be written.
    """
    chosen = prediction if genes is None else prediction.select_genes(genes)
    html = render_report(chosen)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_report(prediction: Prediction) -> str:
    """The report as one HTML document; it refers to nothing outside itself."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("triplex_deploy.outputs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    moran = morans_i(prediction.expression, prediction.grid_rc)  # (G,)
    quantised = quantise(prediction.expression)
    return environment.get_template("report.html").render(
        prediction=prediction,
        stylesheet=_asset("report.css"),
        scripts=[_asset("viewer.js"), _asset("report.js")],
        thumbnail=_jpeg(prediction.thumbnail),
        tissue_overlay=_small_jpeg(prediction.tissue_overlay),
        caution=prediction.run.get("bundle_note"),
        data=_json_for_script(_payload(prediction, quantised, moran)),
        codes=_base64(quantised.codes),
        top_genes=_top_genes(prediction.genes, moran),
        run_facts=facts.run_facts(prediction.run),
        grouped_facts=facts.grouped_facts(prediction.run),
        stages=facts.stages(prediction.run),
        size_mm=[side * prediction.slide_mpp / 1000 for side in prediction.slide_size_wh],
    )


def _payload(
    prediction: Prediction, quantised: QuantisedGenes, moran: NDArray[np.float64]
) -> dict[str, Any]:
    """What the scripts read, beside the codes; arrays are little-endian and base64."""
    width, height = prediction.slide_size_wh
    return {
        "slide": {"width": width, "height": height, "mpp": prediction.slide_mpp},
        "spots": {
            "diameter": prediction.spot_diameter_px,
            "square": prediction.has_square_spots,
            "xy": _base64(prediction.level0_xy.astype("<f4")),
            "rc": _base64(prediction.grid_rc.astype("<i4")),
        },
        "genes": {
            "names": prediction.genes,
            "low": quantised.low.tolist(),
            "high": quantised.high.tolist(),
            "moran": [round(value, 4) if np.isfinite(value) else None for value in moran.tolist()],
            "bytes": quantised.codes.dtype.itemsize,
        },
        "scales": {name: _base64(color_table(name)) for name in WAYPOINTS},
    }


def _top_genes(genes: tuple[str, ...], moran: NDArray[np.float64]) -> list[tuple[str, float]]:
    """The genes of strongest spatial pattern and their Moran's I; ties keep the model's order."""
    known = np.nan_to_num(moran, nan=-np.inf)
    order = np.argsort(-known, kind="stable")[:TOP_GENES]
    return [(genes[gene], float(moran[gene])) for gene in order if known[gene] >= LEAST_PATTERN]


def _small_jpeg(image: NDArray[np.uint8] | None) -> str:
    """The picture within OVERLAY_PX, or nothing where there is none."""
    return "" if image is None else _jpeg(image, OVERLAY_PX)


def _jpeg(image: NDArray[np.uint8], longest_px: int | None = None) -> str:
    from PIL import Image

    buffer = BytesIO()
    picture = Image.fromarray(image)
    if longest_px is not None:
        picture.thumbnail((longest_px, longest_px))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _json_for_script(payload: dict[str, Any]) -> str:
    """JSON that cannot close the script element it stands in."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("triplex_deploy.outputs").joinpath("templates", name).read_text("utf-8")
