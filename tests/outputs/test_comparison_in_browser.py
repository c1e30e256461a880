"""Predicted and measured side by side, as their reader meets them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outputs.browser import Browser
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.report import write_report

RIGHT = "\ue014"
MINUS, DASH = "\u2212", "\u2013"


@pytest.fixture
def page(
    browser: Browser, prediction: Prediction, measured: Measured, tmp_path: Path
) -> Iterator[Browser]:
    write_report(prediction, tmp_path / "a.html", measured=measured)
    browser.open((tmp_path / "a.html").as_uri())
    yield browser
    assert [entry["message"] for entry in browser.messages()] == []


def pictures(page: Browser) -> list[str]:
    """What both maps show once they are drawn anew."""
    drawn = page.run(
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>"
        "done(['canvas', 'measured-canvas'].map(id => document.getElementById(id).toDataURL()))"
        ")));"
    )
    return list(drawn)


def test_it_opens_on_the_best_gene_with_two_different_maps(page: Browser) -> None:
    assert page.run("return document.getElementById('gene').value") == "GNAS"
    assert page.texts("#stats dd")[:2] == ["0.900", "1 of 3"]
    predicted, measured = pictures(page)
    assert min(len(predicted), len(measured)) > 5000
    assert predicted != measured
    labels = page.run(
        "return [...document.querySelectorAll('.histogram svg')].map(n => n.ariaLabel)"
    )
    assert labels[0].startswith("Histogram of predicted GNAS over 30 spots")
    assert labels[1].startswith("Histogram of measured GNAS over 28 spots")


def test_genes_sort_by_agreement_and_by_name(page: Browser) -> None:
    assert page.texts("#gene-table tbody th") == ["GNAS", "FASN", "ERBB2"]  # unknown PCC last
    assert page.texts("#gene-table tbody td")[::2] == ["0.90", f"{MINUS}0.25", DASH]
    page.click("[data-column=pcc] button")
    assert page.texts("#gene-table tbody th") == ["FASN", "GNAS", "ERBB2"]
    page.click("[data-column=names] button")
    assert page.texts("#gene-table tbody th") == ["ERBB2", "FASN", "GNAS"]
    sorting = page.run(
        "return [...document.querySelectorAll('[data-column]')].map(head => head.ariaSort)"
    )
    assert sorting == ["ascending", "none", "none"]


def test_a_gene_of_the_table_changes_both_maps(page: Browser) -> None:
    before = pictures(page)
    page.click("#gene-table tbody tr:nth-child(2) button")
    assert page.run("return location.hash") == "#FASN"
    after = pictures(page)
    assert after[0] != before[0]
    assert after[1] != before[1]
    pressed = "return document.querySelector('#gene-table [aria-pressed=true]').textContent"
    assert page.run(pressed) == "FASN"


def test_a_gene_that_was_not_measured_says_so(page: Browser) -> None:
    page.click("#gene-table tbody tr:nth-child(3) button")
    assert page.texts("#measured-axis") == ["not measured"]
    label = page.run("return document.querySelector('#measured-histogram svg').ariaLabel")
    assert label == "ERBB2 was not measured"
    assert page.texts("#stats dd")[:2] == ["undefined", "none"]


def test_both_maps_zoom_and_point_together(page: Browser) -> None:
    before = pictures(page)
    page.type("#canvas", "++" + RIGHT)
    after = pictures(page)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert page.run(
        "return ['tip', 'measured-tip'].every(id => !document.getElementById(id).hidden)"
    )
    (spoken,) = page.texts("#spoken")
    assert spoken.startswith("GNAS predicted ")
    assert ", measured " in spoken


def test_one_range_for_both_repaints_the_narrower_map(page: Browser) -> None:
    before = pictures(page)
    page.run(
        "const s = document.getElementById('shared'); s.value = 'one';"
        "s.dispatchEvent(new Event('change'));"
    )
    assert pictures(page)[0] != before[0]


def test_a_narrow_window_stacks_the_maps(page: Browser) -> None:
    page.call("POST", "/window/rect", {"width": 500, "height": 900})
    try:
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.run(
            "const [a, b] = ['canvas', 'measured-canvas'].map(id =>"
            "document.getElementById(id).getBoundingClientRect()); return b.top >= a.bottom"
        )
    finally:
        page.call("POST", "/window/rect", {"width": 1280, "height": 1000})
