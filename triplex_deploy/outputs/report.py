"""Write the report of a slide: one HTML file that shows every predicted gene on the tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.cautions import cautions
from triplex_deploy.outputs.gene_sets import with_gene_sets
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.metadata import format_metadata, grouped_metadata, stages
from triplex_deploy.outputs.moran import morans_i
from triplex_deploy.outputs.page import json_for_script, render_page
from triplex_deploy.outputs.pictures import array_base64, jpeg_base64
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.quantize import quantize
from triplex_deploy.outputs.report_data import report_data
from triplex_deploy.outputs.units import UNKNOWN
from triplex_deploy.outputs.zoom_tiles import ZoomTiles

SCRIPTS: Final = (
    "tile_layer.js",
    "lasso.js",
    "viewer.js",
    "gene_map.js",
    "gene_list.js",
    "spot_table.js",
    "report.js",
)
"""Scripts of the page, in the order in which they run."""
OVERLAY_PX: Final = 800
"""Longest side of the tissue picture, in pixels."""
MIN_MORAN: Final = 0.05
"""Moran's I below which a map is hardly more than noise."""
TOP_GENES: Final = 10
"""Maximum number of genes in the list of strongest patterns."""


def write_report(
    prediction: Prediction,
    path: str | Path,
    genes: Sequence[str] | None = None,
    measured: Measured | None = None,
    zoom: ZoomTiles | None = None,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the report of a prediction as one HTML file, atomically.

    Args:
        prediction: What to show.
        path: File to write; an existing file is replaced.
        genes: Genes to show, None for all.
        measured: Measured expression, shown as a second map with the correlation of each gene.
        zoom: Tiles of the slide in a folder beside the file, under the map when it is zoomed.
        gene_sets: Sets of genes by name, of which the scores are shown after the genes.

    Raises:
        ConfigError: If a gene is unknown, a gene set cannot be scored, or gene sets are given
            together with ``measured``.
        ContractError: If ``measured`` has other spots or genes.
        OutputError: If the file cannot be written.
    """
    n_sets, names = 0, genes
    if gene_sets:
        if measured is not None:
            raise ConfigError(
                "gene sets: have no measured values; leave the gene sets out, or the truth"
            )
        prediction, n_sets = with_gene_sets(prediction, gene_sets)
        names = None if genes is None else (*genes, *prediction.genes[-n_sets:])
    if names is not None:
        measured = measured and measured.select_genes(tuple(names), prediction)
        prediction = prediction.select_genes(names)
    html = render_report(prediction, measured, zoom, n_sets)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_report(
    prediction: Prediction,
    measured: Measured | None = None,
    zoom: ZoomTiles | None = None,
    n_sets: int = 0,
) -> str:
    """Return the report as one HTML document that needs no other file, but tiles to zoom in.

    The last ``n_sets`` genes are scores of gene sets.

    Raises ``ContractError`` if ``measured`` has other spots or genes.
    """
    moran = morans_i(prediction.expression, prediction.grid_rc)  # (G,)
    quantized = quantize(prediction.expression)
    beside = None
    if measured is not None:
        measured.require_match(prediction)
        beside = quantize(measured.values)
    overlay, run = prediction.tissue_overlay, prediction.run
    return render_page(
        "report.html",
        ["page.css", "report.css"],
        list(SCRIPTS),
        prediction=prediction,
        thumbnail=jpeg_base64(prediction.thumbnail),
        tissue_overlay="" if overlay is None else jpeg_base64(overlay, OVERLAY_PX),
        cautions=cautions(run),
        units=prediction.units or UNKNOWN,
        measured=measured,
        reliability=prediction.reliability,
        zoom=zoom,
        n_sets=n_sets,
        data=json_for_script(
            report_data(prediction, quantized, moran, measured, beside, zoom, n_sets)
        ),
        codes=array_base64(quantized.codes),
        measured_codes="" if beside is None else array_base64(beside.codes),
        top_genes=_top_genes(prediction.genes, moran),
        metadata=format_metadata(run),
        grouped_metadata=grouped_metadata(run),
        stages=stages(run),
        size_mm=[side * prediction.slide_mpp / 1000 for side in prediction.slide_size_wh],
        spot_um=prediction.spot_diameter_px * prediction.slide_mpp,
    )


def _top_genes(genes: tuple[str, ...], moran: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Return the genes with the strongest spatial pattern and their Moran's I.

    Genes with equal values stay in the order of the model.
    """
    known = np.nan_to_num(moran, nan=-np.inf)
    order = np.argsort(-known, kind="stable")[:TOP_GENES]
    return [(genes[gene], float(moran[gene])) for gene in order if known[gene] >= MIN_MORAN]
