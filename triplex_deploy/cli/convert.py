"""Define ``triplex-deploy convert``: write a prediction as a file of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, counted, print_summary
from triplex_deploy.cli.shared_options import genes_option
from triplex_deploy.outputs.formats import FORMATS, also_path, convert

HELP = f"""Write PREDICTION.h5ad in another format.

{"; ".join(f"{name} {known.description}" for name, known in FORMATS.items())}.
"""


@click.command(
    help=HELP,
    epilog="Example: triplex-deploy convert predictions/slide.h5ad --to geojson --genes GNAS,FASN "
    "--out slide.geojson",
)
@click.argument("prediction", metavar="PREDICTION.h5ad", type=click.Path(path_type=Path))
@click.option(
    "--to", "wanted", required=True, type=click.Choice(list(FORMATS)), help="Format to write."
)
@genes_option()
@click.option(
    "--pixel-um",
    type=click.FloatRange(0, min_open=True),
    help="Pixel size of an ome-tiff in microns.  [default: an eighth of a spot]",
)
@click.option(
    "--qupath-bounds",
    is_flag=True,
    help="Let coordinates of a geojson begin at the scanned part of the slide, to which QuPath "
    "crops slides such as MRXS.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write.  [default: beside the prediction]",
)
@common_options
def command(
    prediction: Path,
    wanted: str,
    genes: tuple[str, ...] | None,
    pixel_um: float | None,
    qupath_bounds: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write the file and print where it is."""
    from triplex_deploy.outputs.h5ad import read_prediction

    found = read_prediction(prediction)
    target = out or also_path(found.slide_name, prediction.parent, wanted)
    path = convert(found, wanted, target, genes, pixel_um, qupath_bounds)
    n_genes = len(found.genes) if genes is None else len(genes)
    summary: dict[str, Any] = {
        "file": str(path),
        "format": wanted,
        "spots": found.n_spots,
        "genes": n_genes,
        "units": found.units,
    }
    lines = [f"{path}: {counted(found.n_spots, 'spot')}, {counted(n_genes, 'gene')}"]
    if found.units:
        lines.append(f"values: {found.units}")
    print_summary(as_json, summary, lines)
