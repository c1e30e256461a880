"""The reliability of genes, as the reader of a report meets it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.outputs.browser import Browser
from tests.test_reliability import reliability
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.report import write_report

MINUS, DASH = "\u2212", "\u2013"


@pytest.fixture
def known(prediction: Prediction) -> Prediction:
    """GNAS is not supported, FASN is, and ERBB2 was constant."""
    return replace(prediction, reliability=reliability().select(np.array([1, 0, 2])))


@pytest.fixture
def page(browser: Browser, known: Prediction, tmp_path: Path) -> Iterator[Browser]:
    write_report(known, tmp_path / "a.html")
    browser.open((tmp_path / "a.html").as_uri())
    yield browser
    assert [entry["message"] for entry in browser.messages()] == []


def test_it_opens_on_the_most_reliable_gene_and_marks_the_others(page: Browser) -> None:
    assert page.run("return document.getElementById('gene').value") == "FASN"
    assert page.texts("#gene-table tbody button") == ["FASN", "GNAS", "ERBB2"]
    assert page.texts("#gene-table tbody td")[::3] == ["0.50", "0.10", DASH]
    assert page.texts("#gene-table tbody small") == ["not supported"] * 2
    colors = page.run(
        "return [...document.querySelectorAll('#gene-table tbody button')]"
        ".map(node => getComputedStyle(node).color)"
    )
    assert colors[1] == colors[2] != colors[0]
    page.click("[data-column=ceiling] button")
    assert page.texts("#gene-table tbody td")[1::3] == ["0.90", "0.40", DASH]


def test_the_chosen_gene_shows_its_interval(page: Browser) -> None:
    numbers = dict(zip(page.texts("#stats dt"), page.texts("#stats dd"), strict=True))
    assert numbers["Held-out PCC"] == "0.500 (0.300 to 0.700)"
    assert numbers["Held-out RMSE"] == "0.100"
    page.click('#gene-table tbody [data-index="0"]')
    numbers = dict(zip(page.texts("#stats dt"), page.texts("#stats dd"), strict=True))
    assert numbers["Held-out PCC"] == f"0.100 ({MINUS}0.100 to 0.300), not supported"


def test_it_stands_beside_the_agreement_with_measurements(
    browser: Browser, known: Prediction, measured: Measured, tmp_path: Path
) -> None:
    write_report(known, tmp_path / "b.html", measured=measured)
    browser.open((tmp_path / "b.html").as_uri())
    heads = "return [...document.querySelectorAll('[data-column]')].map(n => n.dataset.column)"
    assert browser.run(heads) == ["names", "pcc", "heldout", "moran"]
    assert browser.texts("#gene-table tbody button") == ["GNAS", "FASN", "ERBB2"]
    assert [entry["message"] for entry in browser.messages()] == []


def test_a_model_without_says_so(browser: Browser, prediction: Prediction, tmp_path: Path) -> None:
    write_report(prediction, tmp_path / "c.html")
    browser.open((tmp_path / "c.html").as_uri())
    numbers = dict(zip(browser.texts("#stats dt"), browser.texts("#stats dd"), strict=True))
    assert numbers["Held-out PCC"] == "not measured"
    assert "was not measured for this model" in browser.texts(".patterns")[0]
