"""Define ``triplex-deploy report``: the HTML page of one prediction, or an index of many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from triplex_deploy.cli.shared import common_options, counted, print_summary
from triplex_deploy.cli.shared_options import genes_option
from triplex_deploy.files.escape import first_of

SOME_FAILED = 3
"""Exit status if some predictions of the folder cannot be read."""


NAMED: Final = 5
"""Most slides that failed of which the line about the index gives the name."""


@click.command(
    epilog="Example: triplex-deploy report predictions/slide.h5ad --truth counts.h5ad "
    "--genes GNAS,FASN --out slide.html"
)
@click.argument("what", metavar="PREDICTION.h5ad|FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="Measured counts (h5ad, .tsv or Space Ranger folder) to show beside the prediction, with "
    "the correlation of each gene.",
)
@genes_option()
@click.option(
    "--gene-sets",
    type=click.Path(path_type=Path),
    metavar="FILE.gmt",
    help="Also show the score of each gene set, as scanpy's score_genes.",
)
@click.option(
    "--zoom",
    type=click.Path(path_type=Path),
    metavar="SLIDE",
    help="The predicted slide: its tiles are written into a folder beside the page, and the map "
    "zooms to the cells.",
)
@click.option(
    "--zoom-um",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Microns per pixel of the finest tiles of --zoom.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Page to write of one prediction. [default: PREDICTION.html]",
)
@common_options
def command(
    what: Path,
    truth: Path | None,
    genes: tuple[str, ...] | None,
    gene_sets: Path | None,
    zoom: Path | None,
    zoom_um: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Write the report of PREDICTION.h5ad, or FOLDER/index.html of all predictions in FOLDER.

    The page is one HTML file, with --zoom also a folder of tiles. It opens from disk in any
    browser, without a network.
    """
    if truth and gene_sets:
        raise click.UsageError("--gene-sets: gene sets have no measured values; drop it or --truth")
    source = click.get_current_context().get_parameter_source("zoom_um")
    if zoom is None and source == click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--zoom-um: is of the tiles of --zoom; give the slide with --zoom")
    if what.is_dir():
        if truth or genes or gene_sets or zoom or out:
            raise click.UsageError(
                f"a folder gets an index, {what / 'index.html'}; name one prediction for --truth, "
                "--genes, --gene-sets, --zoom and --out"
            )
        return _index(what, as_json)
    page = out or what.with_suffix(".html")
    shown = _Shown(truth, genes, gene_sets, zoom, zoom_um)
    _report(what, shown, page, as_json)
    return 0


@dataclass(frozen=True)
class _Shown:
    """What a report shows."""

    truth: Path | None
    genes: tuple[str, ...] | None
    gene_sets: Path | None
    zoom: Path | None
    zoom_um: float


def _report(what: Path, wanted: _Shown, out: Path, as_json: bool) -> None:
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.cli.truth import measured_labels
    from triplex_deploy.outputs.genes import gene_indices
    from triplex_deploy.outputs.h5ad import read_prediction
    from triplex_deploy.outputs.page import require_own_page
    from triplex_deploy.outputs.report import write_report

    require_own_page(out)
    prediction = read_prediction(what)
    truth, genes = wanted.truth, wanted.genes
    gene_indices(genes, prediction.genes)  # an unknown gene is told before any work
    measured = None if truth is None else measured_labels(prediction, truth)
    tiles, sets = None, None
    if wanted.gene_sets is not None:
        from triplex_deploy.outputs.gene_sets import read_gene_sets

        sets = read_gene_sets(wanted.gene_sets)
    if wanted.zoom is not None:
        from triplex_deploy.pipeline.zoom import write_zoom

        with StageBars() as progress:
            tiles = write_zoom(prediction, wanted.zoom, out, wanted.zoom_um, progress)
    write_report(prediction, out, genes, measured, tiles, sets)
    n_genes = len(prediction.genes) if genes is None else len(genes)
    summary: dict[str, Any] = {"report": str(out), "spots": prediction.n_spots, "genes": n_genes}
    line = f"{out}: {counted(prediction.n_spots, 'spot')}, {counted(n_genes, 'gene')}"
    if tiles is not None:
        summary["tiles"] = str(out.with_name(tiles.folder_name))
        line += f"; keep {tiles.folder_name} beside it"
    if measured is not None:
        shown = measured if genes is None else measured.select_genes(genes, prediction)
        median = shown.median_pcc
        summary |= {
            "spots_measured": shown.n_spots,
            "genes_measured": shown.n_genes,
            "median_pcc": median,
        }
        line += f"; {shown.n_genes} measured on {counted(shown.n_spots, 'spot')}"
        line += "" if median is None else f", median PCC {median:.4f}"
    print_summary(as_json, summary, [line])


def _index(folder: Path, as_json: bool) -> int:
    from triplex_deploy.outputs.cohort import folder_cards, write_index_pages

    index = write_index_pages(folder, folder_cards(folder))
    n_done, failed = len(index.done), index.failed
    print_summary(
        as_json,
        {
            "index": str(index.path),
            "slides": list(index.done),
            "failed": [{"slide": name, "error": error} for name, error in failed.items()],
        },
        [f"{index.path}: {counted(n_done, 'slide')}{_failed(list(failed))}"],
    )
    if not failed:
        return 0
    return SOME_FAILED if n_done else 1


def _failed(names: list[str]) -> str:
    """Return how many slides failed, and which; nothing if none did."""
    if not names:
        return ""
    return f", {len(names)} failed: {first_of(names, NAMED)}"
