"""Write the index of many slides: HTML pages with links to their reports.

One page has at most 500 slides, and only its slides are in memory. The first page is written last,
as it counts all slides and lists those that failed.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from triplex_deploy.errors import OutputError, TriplexError, one_line
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import exists, remove_ours
from triplex_deploy.files.regular import open_regular
from triplex_deploy.outputs.files import is_prediction
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.page import is_page, json_for_script, render_page, require_own_page
from triplex_deploy.outputs.sidecar import names_prediction, recorded_summary
from triplex_deploy.outputs.slide_summary import SlideSummary

logger = logging.getLogger(__name__)

INDEX: Final = "index.html"
"""File name of the first page of the index."""
SLIDES_PER_PAGE: Final = 500
"""Largest number of slides of one page: with their pictures, about 15 MB."""
_FAILURES: Final = re.compile(rb'<script type="application/json" id="failures">(.*?)</script>')
"""Element of the first page that holds the error of each failed slide, by name."""


@dataclass(frozen=True)
class SlideCard:
    """A slide of an index, whose summary is made when its page is written."""

    name: str
    """Name of the slide; in a subfolder, the path of that."""
    summarize: Callable[[], SlideSummary]
    """Return the summary."""


@dataclass(frozen=True)
class CohortIndex:
    """A written index."""

    path: Path
    """The first page."""
    done: tuple[str, ...]
    """Names of the predicted slides."""
    failed: dict[str, str]
    """Errors of the failed slides, by name."""


def write_cohort_index(folder: str | Path, summaries: Sequence[SlideSummary]) -> Path:
    """Write ``index.html`` into a folder, and further pages for many slides; return its path.

    Args:
        folder: An existing folder. A slide is linked if its report ``<slide>.html`` is there.
        summaries: The slides, in the order of the pages.

    Raises:
        OutputError: A page cannot be written, or would replace a file that is no page of an index.
    """
    cards = [SlideCard(summary.slide_name, partial(_same, summary)) for summary in summaries]
    return write_index_pages(folder, cards).path


def write_index_pages(
    folder: str | Path, cards: Sequence[SlideCard], per_page: int = SLIDES_PER_PAGE
) -> CohortIndex:
    """Write the pages of an index, each atomically, and remove further pages of an earlier one.

    Args:
        folder: An existing folder. A slide is linked if its report ``<slide>.html`` is there.
        cards: The slides, in the order of the pages.
        per_page: Largest number of slides of a page.

    Raises:
        OutputError: A page cannot be written, or would replace a slide's report or a file that
            this package did not write.
    """
    folder = Path(folder)
    pages = [cards[first : first + per_page] for first in range(0, len(cards), per_page)] or [cards]
    names = page_names(len(cards), per_page)
    reports = {f"{card.name}.html" for card in cards}
    for name in names:
        if name in reports:
            raise OutputError(f"{folder / name}: is the report of a slide; give it another name")
        require_own_page(folder / name)
    totals = _Totals()
    for number in range(len(pages) - 1, -1, -1):
        summaries = [_named(card.summarize(), card.name) for card in pages[number]]
        totals.add(summaries, names[number])
        html = _render(summaries, folder, _Place(number, names, len(cards), per_page), totals)
        with atomic_path(folder / names[number]) as temporary:
            temporary.write_text(html, encoding="utf-8")
    _remove_pages(folder, len(pages))
    done = tuple(card.name for card in cards if card.name not in totals.failures)
    return CohortIndex(folder / names[0], done, totals.failures)


def page_names(n_slides: int, per_page: int = SLIDES_PER_PAGE) -> list[str]:
    """Return the file names of the pages: ``index.html``, ``index-2.html`` and so on."""
    n_pages = max(1, -(-n_slides // per_page))
    return [INDEX, *(f"index-{number}.html" for number in range(2, n_pages + 1))]


@dataclass
class _Totals:
    """What the first page says of all pages; they are added from the last to the first."""

    n_done: int = 0
    n_spots: int = 0
    genes: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    page_of: dict[str, str] = field(default_factory=dict)

    def add(self, summaries: Sequence[SlideSummary], page: str) -> None:
        here = {summary.slide_name: summary.error for summary in summaries if summary.error}
        self.failures = here | self.failures
        self.page_of |= dict.fromkeys(here, page)
        self.n_done += len(summaries) - len(here)
        self.n_spots += sum(summary.n_spots for summary in summaries)
        self.genes |= {gene.name for summary in summaries for gene in summary.genes}


@dataclass(frozen=True)
class _Place:
    """Which page of the index a page is."""

    number: int
    """Counted from 0."""
    names: list[str]
    n_slides: int
    per_page: int

    @property
    def links(self) -> Iterator[tuple[str, str]]:
        """Yield file name and text of the link to each page."""
        for number, name in enumerate(self.names):
            first = number * self.per_page
            yield name, f"{first + 1:,} to {min(first + self.per_page, self.n_slides):,}"


def _remove_pages(folder: Path, n_pages: int) -> None:
    """Remove the further pages of an earlier index, which had more slides; keep any report."""
    for number in count(n_pages + 1):
        page = folder / f"index-{number}.html"
        if not exists(page):
            return
        if not exists(page.with_suffix(".h5ad")):
            remove_ours(page, is_page)


def summarize_folder(folder: str | Path) -> list[SlideSummary]:
    """Return a summary of every slide of a folder, sorted by name; see ``folder_cards``."""
    return [card.summarize() for card in folder_cards(folder)]


def folder_cards(folder: str | Path) -> list[SlideCard]:
    """Return a card of every slide of a folder and its subfolders, sorted by name.

    The name of a slide in a subfolder is its path below the folder. A slide is failed if its
    prediction cannot be read, or if the folder's index lists it as failed and it has no prediction
    since. Other h5ad files are ignored, and so are hidden folders.

    Raises:
        OutputError: The folder has neither predictions nor failed slides.
    """
    paths = [path for path in _tables(Path(folder)) if _may_be_prediction(path)]
    failures = _recorded_failures(Path(folder))
    if not paths and not failures:
        raise OutputError(
            f"{folder}: has no prediction; give the --out folder of triplex-deploy predict"
        )
    cards = [
        SlideCard(
            path.relative_to(folder).with_suffix("").as_posix(),
            partial(summarize_prediction, path),
        )
        for path in paths
    ]
    cards += [
        SlideCard(name, partial(SlideSummary.failed, name, error))
        for name, error in failures.items()
    ]
    return sorted(cards, key=lambda card: card.name)


def _tables(folder: Path) -> Iterator[Path]:
    """Yield the h5ad files of a folder and its subfolders, but those of hidden ones."""
    for path in folder.rglob("*.h5ad"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


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
    if names_prediction(path):
        return True
    try:
        return is_prediction(path)
    except OutputError:
        return True


def summarize_prediction(path: Path, is_checked: bool = False) -> SlideSummary:
    """Return the summary of one h5ad; a failed slide if it cannot be read.

    Args:
        path: The h5ad.
        is_checked: It is known that the h5ad has the digest that its JSON file records.

    Returns:
        The summary in the JSON file beside it if that belongs to it, otherwise one of its content.
    """
    recorded = recorded_summary(path, is_checked)
    if recorded is not None:
        return recorded
    try:
        return SlideSummary.of(read_prediction(path))
    except TriplexError as error:
        logger.warning("%s", one_line(error))
        return SlideSummary.failed(path.stem, one_line(error))


def _render(summaries: Sequence[SlideSummary], folder: Path, place: _Place, totals: _Totals) -> str:
    """Return one page; the first has the totals of all."""
    is_first = place.number == 0
    counted = totals
    if not is_first:
        counted = _Totals()
        counted.add(summaries, place.names[place.number])
    links = list(place.links) if len(place.names) > 1 else []
    failures = totals.failures if is_first else {}
    return render_page(
        "cohort.html",
        ["page.css", "cohort.css"],
        ["cohort.js"],
        summaries=summaries,
        reports=_reports(folder, summaries),
        n_done=counted.n_done,
        n_failed=len(counted.failures),
        n_spots=counted.n_spots,
        n_genes=len(counted.genes),
        genes=sorted({gene.name for summary in summaries for gene in summary.genes}),
        data=json_for_script([_gene_data(summary) for summary in summaries]),
        failures=json_for_script(failures),
        n_slides=place.n_slides,
        links=links,
        this_page=place.names[place.number],
        this_range=links[place.number][1] if links else "",
        failed_pages=[(name, totals.page_of[name]) for name in failures] if links else [],
    )


def _same(summary: SlideSummary) -> SlideSummary:
    return summary


def _named(summary: SlideSummary, name: str) -> SlideSummary:
    """Return the summary under the name by which the index knows the slide."""
    return summary if summary.slide_name == name else replace(summary, slide_name=name)


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
