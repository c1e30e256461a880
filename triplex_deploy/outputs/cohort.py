"""The index of many slides: one HTML page that links to each slide's report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from triplex_deploy.errors import OutputError, TriplexError, one_line
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.files import is_prediction
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.page import json_for_script, render_page, require_own_page
from triplex_deploy.outputs.slide_summary import SlideSummary

logger = logging.getLogger(__name__)

INDEX: Final = "index.html"


def write_cohort_index(folder: str | Path, summaries: Sequence[SlideSummary]) -> Path:
    """Write ``index.html`` into ``folder``, atomically, and return its path.

    A slide's report is linked where ``<slide>.html`` lies in the folder. Raises ``OutputError``
    where the page cannot be written or another ``index.html`` is in the way.
    """
    path = Path(folder) / INDEX
    require_own_page(path)
    html = render_cohort_index(summaries, _reports(Path(folder), summaries))
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def summarize_folder(folder: str | Path) -> list[SlideSummary]:
    """A summary of every prediction in ``folder``, by name; an unreadable one is a failed slide.

    Other h5ad files are passed over. Raises ``OutputError`` where there is no prediction at all.
    """
    tables = sorted(path for path in Path(folder).glob("*.h5ad") if is_prediction(path))
    if not tables:
        raise OutputError(f"{folder}: no prediction in it; give the --out folder of a predict")
    return [summarize_prediction(table) for table in tables]


def summarize_prediction(table: Path) -> SlideSummary:
    """The summary of one prediction on disk; an unreadable one is a failed slide."""
    try:
        return SlideSummary.of(read_prediction(table))
    except TriplexError as error:
        logger.warning("%s", one_line(error))
        return SlideSummary.failed(table.stem, one_line(error))


def render_cohort_index(summaries: Sequence[SlideSummary], reports: dict[str, str]) -> str:
    """The index as one HTML document; ``reports`` are relative links by slide name."""
    done = [one for one in summaries if not one.error]
    return render_page(
        "cohort.html",
        ["page.css", "cohort.css"],
        ["cohort.js"],
        summaries=summaries,
        reports=reports,
        n_done=len(done),
        n_failed=len(summaries) - len(done),
        n_spots=sum(one.n_spots for one in done),
        genes=sorted({gene.name for one in done for gene in one.genes}),
        data=json_for_script([_gene_data(one) for one in summaries]),
    )


def _reports(folder: Path, summaries: Sequence[SlideSummary]) -> dict[str, str]:
    names = [one.slide_name for one in summaries]
    return {name: quote(f"{name}.html") for name in names if (folder / f"{name}.html").is_file()}


def _gene_data(one: SlideSummary) -> dict[str, Any]:
    """Per gene its mean and Moran's I, in the order of the cards."""
    return {gene.name: [gene.mean, gene.moran] for gene in one.genes}
