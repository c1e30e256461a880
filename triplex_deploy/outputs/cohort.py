"""Write the index of many slides: one HTML page with links to their reports."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from triplex_deploy.errors import OutputError, TriplexError, one_line
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.regular import open_regular
from triplex_deploy.outputs.files import is_prediction
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.page import is_page, json_for_script, render_page, require_own_page
from triplex_deploy.outputs.slide_summary import SlideSummary

logger = logging.getLogger(__name__)

INDEX: Final = "index.html"
"""File name of the index."""
_FAILURES: Final = re.compile(rb'<script type="application/json" id="failures">(.*?)</script>')
"""Element of the index that holds the error of each failed slide, by name."""


def write_cohort_index(folder: str | Path, summaries: Sequence[SlideSummary]) -> Path:
    """Write ``index.html`` into a folder, atomically, and return its path.

    Args:
        folder: An existing folder. A slide is linked if its report ``<slide>.html`` is there.
        summaries: The slides, in the order of the page.

    Raises:
        OutputError: The page cannot be written, or would replace an ``index.html`` that this
            package did not write.
    """
    path = Path(folder) / INDEX
    require_own_page(path)
    html = render_cohort_index(summaries, _reports(Path(folder), summaries))
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def summarize_folder(folder: str | Path) -> list[SlideSummary]:
    """Return a summary of every slide of a folder, sorted by name.

    A slide is failed if its prediction cannot be read, or if the folder's index lists it as failed
    and it has no prediction since. Other h5ad files are ignored.

    Raises:
        OutputError: The folder has neither predictions nor failed slides.
    """
    paths = [path for path in Path(folder).glob("*.h5ad") if _may_be_prediction(path)]
    failures = _recorded_failures(Path(folder))
    if not paths and not failures:
        raise OutputError(
            f"{folder}: has no prediction; give the --out folder of triplex-deploy predict"
        )
    summaries = [summarize_prediction(path) for path in paths]
    summaries += [SlideSummary.failed(name, error) for name, error in failures.items()]
    return sorted(summaries, key=lambda summary: summary.slide_name)


def _recorded_failures(folder: Path) -> dict[str, str]:
    """Return the errors of slides that the index lists as failed and that have no prediction."""
    try:
        with open_regular(folder / INDEX) as file:
            page = file.read()
        found = _FAILURES.search(page) if is_page(page) else None
        recorded = json.loads(found[1]) if found else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(recorded, dict):
        return {}
    return {
        name: str(error)
        for name, error in recorded.items()
        if not os.path.lexists(folder / f"{name}.h5ad")
    }


def _may_be_prediction(path: Path) -> bool:
    """Return True for a prediction, and for an h5ad that is open elsewhere: reading it says so."""
    try:
        return is_prediction(path)
    except OutputError:
        return True


def summarize_prediction(path: Path) -> SlideSummary:
    """Return the summary of one h5ad; a failed slide if it cannot be read."""
    try:
        return SlideSummary.of(read_prediction(path))
    except TriplexError as error:
        logger.warning("%s", one_line(error))
        return SlideSummary.failed(path.stem, one_line(error))


def render_cohort_index(summaries: Sequence[SlideSummary], reports: dict[str, str]) -> str:
    """Return the index as one HTML document; ``reports`` are relative links by slide name."""
    done = [summary for summary in summaries if not summary.error]
    return render_page(
        "cohort.html",
        ["page.css", "cohort.css"],
        ["cohort.js"],
        summaries=summaries,
        reports=reports,
        n_done=len(done),
        n_failed=len(summaries) - len(done),
        n_spots=sum(summary.n_spots for summary in done),
        genes=sorted({gene.name for summary in done for gene in summary.genes}),
        data=json_for_script([_gene_data(summary) for summary in summaries]),
        failures=json_for_script({s.slide_name: s.error for s in summaries if s.error}),
    )


def _reports(folder: Path, summaries: Sequence[SlideSummary]) -> dict[str, str]:
    names = [summary.slide_name for summary in summaries]
    return {
        name: quote(os.fsencode(f"{name}.html"))
        for name in names
        if (folder / f"{name}.html").is_file()
    }


def _gene_data(summary: SlideSummary) -> dict[str, Any]:
    """Return the mean and Moran's I of each gene, by name."""
    return {gene.name: [gene.mean, gene.moran] for gene in summary.genes}
