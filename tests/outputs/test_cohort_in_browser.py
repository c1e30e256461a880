"""The index of many slides, as its reader meets it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.outputs.browser import Browser
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.cohort import write_cohort_index
from triplex_deploy.outputs.slide_summary import SlideSummary


@pytest.fixture
def page(browser: Browser, prediction: Prediction, tmp_path: Path) -> Iterator[Browser]:
    """Slides a1, a2 and a10, of 30, 20 and 10 spots, and one that failed."""
    summaries = [SlideSummary.failed("b", "b.svs: torn; rescan it")]
    for name, n_spots, more in (("a10", 10, 5), ("a2", 20, 1), ("a1", 30, 3)):
        few = replace(
            prediction,
            slide_name=name,
            expression=prediction.expression[:n_spots] + np.float32(more),
            level0_xy=prediction.level0_xy[:n_spots],
            grid_rc=prediction.grid_rc[:n_spots],
        )
        summaries.append(SlideSummary.of(few))
    (tmp_path / "a2.html").write_text("<!doctype html><title>report</title>")
    browser.open(write_cohort_index(tmp_path, summaries).as_uri())
    yield browser
    assert [entry["message"] for entry in browser.messages()] == []


def cards(page: Browser) -> list[str]:
    return list(
        page.run(
            "return [...document.querySelectorAll('.card:not([hidden]) h2')]"
            ".map(node => node.textContent.trim())"
        )
    )


def choose(page: Browser, control: str, value: str) -> None:
    page.run(
        f"const s = document.getElementById('{control}'); s.value = '{value}';"
        "s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change'));"
    )


def test_slides_come_by_name_and_count_like_people_do(page: Browser) -> None:
    assert cards(page) == ["a1", "a2", "a10", "b"]
    assert page.run("return document.querySelectorAll('.card img').length") == 6
    loaded = "return [...document.images].every(image => image.naturalWidth > 0)"
    assert page.run(loaded)


def test_typing_filters_by_name(page: Browser) -> None:
    page.type("#name", "A1")
    assert cards(page) == ["a1", "a10"]
    assert page.run("return document.getElementById('spoken').textContent") == "2 of 4 slides"


def test_failed_slides_can_be_listed_alone(page: Browser) -> None:
    choose(page, "status", "failed")
    assert cards(page) == ["b"]
    text = page.run("return document.querySelector('.card:not([hidden]) .error').innerText")
    assert text == "Failed: b.svs: torn; rescan it"


def test_a_gene_is_shown_on_every_slide_and_orders_them(page: Browser) -> None:
    page.type("#gene", "erbb2")
    choose(page, "order", "mean")
    assert cards(page) == ["a10", "a1", "a2", "b"]
    lines = page.run("return [...document.querySelectorAll('.gene')].map(n => n.textContent)")
    assert lines[0] == "ERBB2: mean 5.5, Moran\u2019s I \u2013"
    link = page.run("return document.querySelector('.card h2 a').getAttribute('href')")
    assert link == "a2.html#ERBB2"


def test_an_unknown_gene_is_said(page: Browser) -> None:
    page.type("#gene", "NOPE")
    spoken = page.run("return document.getElementById('spoken').textContent")
    assert spoken == "4 slides; no slide has a gene NOPE"


def test_the_table_sorts_by_its_heads(page: Browser) -> None:
    choose(page, "view", "table")
    assert page.run("return document.getElementById('cards').hidden")
    names = "return [...document.querySelectorAll('tbody th')].map(n => n.textContent)"
    page.click("[data-column=spots] button")
    assert page.run(names) == ["a1", "a2", "a10", "b"]
    page.click("[data-column=spots] button")
    assert page.run(names) == ["a10", "a2", "a1", "b"]
    assert page.run("return document.querySelector('[data-column=spots]').ariaSort") == "ascending"
    cells = page.run("return [...document.querySelectorAll('tbody td')].map(n => n.textContent)")
    assert cells[0] == "10"
    assert cells[-1] == "Failed: b.svs: torn; rescan it"


def test_every_control_has_a_name_and_fits_a_narrow_window(page: Browser) -> None:
    nameless = page.run(
        "return [...document.querySelectorAll('button, input, select')].filter(node =>"
        "!node.textContent.trim() && !node.labels?.length).map(node => node.outerHTML)"
    )
    assert nameless == []
    page.call("POST", "/window/rect", {"width": 500, "height": 900})
    try:
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        page.call("POST", "/window/rect", {"width": 1280, "height": 1000})
