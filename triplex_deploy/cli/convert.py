"""``triplex-deploy convert``: a prediction as the file another program opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, print_summary

FORMATS = ("csv", "parquet", "geojson", "spatialdata", "ome-tiff")


@click.command(
    epilog="Example: triplex-deploy convert predictions/slide.h5ad --to geojson --genes GNAS,FASN "
    "--out slide.geojson"
)
@click.argument("prediction", metavar="PREDICTION.h5ad", type=click.Path(path_type=Path))
@click.option("--to", "wanted", required=True, type=click.Choice(FORMATS), help="Format to write.")
@click.option("--genes", help="Only these genes, comma-separated.")
@click.option(
    "--pixel-um",
    type=click.FloatRange(0, min_open=True),
    help="Pixel size of an ome-tiff in microns; an eighth of a spot by default.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; beside the prediction by default.",
)
@common_options
def command(
    prediction: Path,
    wanted: str,
    genes: str | None,
    pixel_um: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write PREDICTION.h5ad in another format.

    csv and parquet are tables of spots and genes; geojson opens in QuPath; spatialdata is a Zarr
    store; ome-tiff is a heatmap per gene at the slide's scale.
    """
    from triplex_deploy.outputs.formats import also_path, convert
    from triplex_deploy.outputs.genes import split_genes
    from triplex_deploy.outputs.h5ad import read_prediction

    found = read_prediction(prediction)
    target = out or also_path(found.slide_name, prediction.parent, wanted)
    chosen = split_genes(genes)
    path = convert(found, wanted, target, chosen, pixel_um)
    n_genes = len(found.genes) if chosen is None else len(chosen)
    summary: dict[str, Any] = {
        "file": str(path),
        "format": wanted,
        "spots": found.n_spots,
        "genes": n_genes,
    }
    print_summary(as_json, summary, [f"{path}: {found.n_spots} spots, {n_genes} genes"])
