"""Define ``triplex-deploy report``: the HTML page of one prediction, or an index of many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import genes_option

SOME_FAILED = 3
"""Exit status if some predictions of the folder cannot be read."""


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
    "--out",
    type=click.Path(path_type=Path),
    help="Page to write.  [default: PREDICTION.html; of a folder, FOLDER/index.html]",
)
@common_options
def command(
    what: Path, truth: Path | None, genes: tuple[str, ...] | None, out: Path | None, as_json: bool
) -> int:
    """Write the report of PREDICTION.h5ad, or an index of all predictions in FOLDER.

    The page is one HTML file. It opens from disk in any browser, without a network.
    """
    if what.is_dir():
        if truth or genes or out:
            raise click.UsageError("--truth, --genes and --out belong to one prediction")
        return _index(what, as_json)
    _report(what, truth, genes, out or what.with_suffix(".html"), as_json)
    return 0


def _report(
    what: Path, truth: Path | None, genes: tuple[str, ...] | None, out: Path, as_json: bool
) -> None:
    from triplex_deploy.cli.truth import measured_labels
    from triplex_deploy.outputs.h5ad import read_prediction
    from triplex_deploy.outputs.page import require_own_page
    from triplex_deploy.outputs.report import write_report

    require_own_page(out)
    prediction = read_prediction(what)
    measured = None if truth is None else measured_labels(prediction, truth)
    write_report(prediction, out, genes, measured)
    n_genes = len(prediction.genes) if genes is None else len(genes)
    summary: dict[str, Any] = {"report": str(out), "spots": prediction.n_spots, "genes": n_genes}
    line = f"{out}: {prediction.n_spots} spots, {n_genes} genes"
    if measured is not None:
        shown = measured if genes is None else measured.select_genes(genes, prediction)
        median = shown.median_pcc
        summary |= {
            "spots_measured": shown.n_spots,
            "genes_measured": shown.n_genes,
            "median_pcc": median,
        }
        line += f"; {shown.n_genes} measured on {shown.n_spots} spots"
        line += "" if median is None else f", median PCC {median:.4f}"
    print_summary(as_json, summary, [line])


def _index(folder: Path, as_json: bool) -> int:
    from triplex_deploy.outputs.cohort import folder_cards, write_index_pages

    index = write_index_pages(folder, folder_cards(folder))
    n_done, failed = len(index.done), index.failed
    noun = "slide" if n_done == 1 else "slides"
    print_summary(
        as_json,
        {
            "index": str(index.path),
            "slides": list(index.done),
            "failed": [{"slide": name, "error": error} for name, error in failed.items()],
        },
        [f"{index.path}: {n_done} {noun}" + (f", {len(failed)} failed" if failed else "")],
    )
    if not failed:
        return 0
    return SOME_FAILED if n_done else 1
