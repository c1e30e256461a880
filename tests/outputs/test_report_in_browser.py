"""The report as its reader meets it: opened from disk, with keys and clicks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.outputs.browser import Browser
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.report import write_report

ENTER, DOWN, RIGHT, ESCAPE = "\ue007", "\ue015", "\ue014", "\ue00c"
BACKSPACE, MINUS = "\ue003", "\u2212"


@pytest.fixture
def page(browser: Browser, prediction: Prediction, tmp_path: Path) -> Iterator[Browser]:
    write_report(prediction, tmp_path / "a.html")
    browser.open((tmp_path / "a.html").as_uri())
    yield browser
    assert [entry["message"] for entry in browser.messages()] == []


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"return document.querySelector('{selector}').textContent"))


def gene(page: Browser) -> str:
    return str(page.run("return document.getElementById('gene').value"))


def picture(page: Browser) -> str:
    """What the canvas shows once it is drawn anew."""
    return str(
        page.run(
            "const canvas = document.getElementById('canvas');"
            "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>"
            "done(canvas.toDataURL()))));"
        )
    )


def test_it_opens_on_the_strongest_pattern(page: Browser) -> None:
    assert gene(page) == "GNAS"
    assert text(page, "#axis") == f"{MINUS}0.4161.995"
    label = page.run("return document.querySelector('#histogram svg').getAttribute('aria-label')")
    assert label.startswith(f"Histogram of GNAS over 30 spots: minimum {MINUS}0.416, median ")
    assert len(picture(page)) > 5000


def test_median_and_quartiles_are_numpys(page: Browser, prediction: Prediction) -> None:
    values = prediction.expression[:, prediction.genes.index(gene(page))]
    low, middle, high = (f"{q:.3f}" for q in np.quantile(values, (0.25, 0.5, 0.75)))
    shown = text(page, ".panel").replace(MINUS, "-")
    assert middle in shown
    assert f"{low} to {high}" in shown


def test_typing_finds_a_gene(page: Browser) -> None:
    before = picture(page)
    page.click("#gene")
    assert page.run("return document.querySelectorAll('#genes [role=option]').length") == 3
    page.type("#gene", BACKSPACE + "fas")
    assert text(page, "#genes [aria-selected=true]").startswith("FASN")
    page.type("#gene", ENTER)
    assert gene(page) == "FASN"
    assert page.run("return location.hash") == "#FASN"
    assert page.run("return document.getElementById('genes').hidden")
    assert picture(page) != before


def test_an_unknown_gene_changes_nothing(page: Browser) -> None:
    page.click("#gene")
    page.type("#gene", BACKSPACE + "zzz")
    assert text(page, "#genes") == "No such gene"
    page.type("#gene", ENTER)
    assert gene(page) == "GNAS"


def test_the_list_is_walked_with_arrows(page: Browser) -> None:
    page.click("#gene")
    page.type("#gene", DOWN + DOWN + ENTER)
    assert gene(page) == "ERBB2"  # constant: every spot has one color
    assert text(page, "#axis") == "0.5000.500"
    page.type("#gene", DOWN + ESCAPE)
    assert gene(page) == "ERBB2"


def test_a_gene_of_the_ranking_is_chosen_by_a_click(page: Browser) -> None:
    page.click("[data-gene=FASN]")
    assert gene(page) == "FASN"
    pressed = "return document.querySelector('[data-gene=FASN]').getAttribute('aria-pressed')"
    assert page.run(pressed) == "true"


def test_arrow_keys_step_from_spot_to_spot_and_speak(page: Browser) -> None:
    page.type("#canvas", RIGHT)
    picture(page)  # waits for the frame
    first = text(page, "#spoken")
    page.type("#canvas", RIGHT + DOWN)
    picture(page)
    assert first.startswith("GNAS ")
    here = text(page, "#spoken").split("row ")[1].split(", column ")
    there = first.split("row ")[1].split(", column ")
    assert [int(a) - int(b) for a, b in zip(here, there, strict=True)] == [1, 1]
    assert not page.run("return document.getElementById('tip').hidden")
    page.type("#canvas", ESCAPE)
    picture(page)
    assert page.run("return document.getElementById('tip').hidden")


def test_keys_before_the_first_layout_are_not_lost(page: Browser) -> None:
    """The observer of the canvas's size is called some time after the page is there."""
    spot = page.run("""
        const canvas = document.getElementById('canvas').cloneNode();
        document.getElementById('canvas').replaceWith(canvas);
        const spots = {count: 2, xy: [10, 10, 90, 90], diameter: 10, square: true};
        const size = {width: 100, height: 100};
        const viewer = new Viewer(canvas, new Image(), size, spots, () => {});
        for (const key of ['ArrowRight', 'ArrowRight'])
            canvas.dispatchEvent(new KeyboardEvent('keydown', {key}));
        return viewer.spot;
    """)
    assert spot == 1


def test_pointer_that_rests_does_not_take_the_spot_from_the_keys(page: Browser) -> None:
    """A browser tells a resting pointer of a move when the page scrolls below it."""
    page.type("#canvas", RIGHT)
    picture(page)
    chosen = text(page, "#spoken")
    for moved, kept in ((0, True), (5, False)):
        page.run(
            "document.getElementById('canvas').dispatchEvent("
            f"new PointerEvent('pointermove', {{clientX: 1, clientY: 1, movementX: {moved}}}))"
        )
        picture(page)
        assert (text(page, "#spoken") == chosen) is kept
    assert chosen


def test_keys_zoom_and_return_to_the_whole_slide(page: Browser) -> None:
    whole = text(page, "#scale-bar")
    page.type("#canvas", "+++")
    picture(page)
    assert text(page, "#scale-bar") != whole
    page.type("#canvas", "0")
    picture(page)
    assert text(page, "#scale-bar") == whole


@pytest.mark.parametrize(
    ("control", "value"), [("scale", "magma"), ("tissue", "none"), ("range", "clipped")]
)
def test_display_choices_redraw(page: Browser, control: str, value: str) -> None:
    before = picture(page)
    page.run(
        f"const s = document.getElementById('{control}'); s.value = '{value}';"
        "s.dispatchEvent(new Event('change'));"
    )
    assert picture(page) != before


def test_the_opacity_slider_fades_the_spots(page: Browser) -> None:
    before = picture(page)
    page.type("#opacity", RIGHT * 5)
    assert text(page, "#opacity-value") == "85 %"
    assert picture(page) != before


def test_every_control_has_a_name(page: Browser) -> None:
    nameless = page.run(
        "return [...document.querySelectorAll('button, input, select, canvas')].filter(node =>"
        "!node.getAttribute('aria-label') && !node.textContent.trim() && !node.labels?.length"
        ").map(node => node.outerHTML)"
    )
    assert nameless == []


def test_a_narrow_window_does_not_scroll_sideways(page: Browser) -> None:
    page.call("POST", "/window/rect", {"width": 500, "height": 800})
    try:
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        page.call("POST", "/window/rect", {"width": 1280, "height": 1000})
