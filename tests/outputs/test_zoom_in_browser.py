"""The report with tiles beside it, spots that are clicked, and the lasso, opened from disk."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.outputs.browser import Browser
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.report import write_report
from triplex_deploy.outputs.zoom_tiles import ZoomTiles
from triplex_deploy.slides import open_slide
from triplex_deploy.slides.tile_pyramid import write_pyramid

ENTER, RIGHT = "\ue007", "\ue014"
BLUE, RED = (40, 60, 200), (200, 40, 60)


@pytest.fixture
def zoom(prediction: Prediction, tmp_path: Path) -> ZoomTiles:
    """Tiles that are blue left and red right, where the thumbnail is light."""
    width, height = prediction.slide_size_wh
    pixels = np.full((height, width, 3), BLUE, np.uint8)
    pixels[:, width // 2 :] = RED
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    with open_slide(tmp_path / "slide.png") as slide:
        made = write_pyramid(slide, prediction.slide_mpp, tmp_path / "a b_tiles", 0.25)
    present = tuple(made.present[level] for level in sorted(made.present))
    return ZoomTiles("a b_tiles", made.width, made.height, 1.0, made.tile_px, present)


@pytest.fixture
def page(
    browser: Browser, prediction: Prediction, zoom: ZoomTiles, tmp_path: Path
) -> Iterator[Browser]:
    write_report(prediction, tmp_path / "a.html", zoom=zoom)
    browser.open((tmp_path / "a.html").as_uri())
    yield browser
    mouse(browser, move(1, 1))  # no spot of the next page lies under a mouse that rests
    assert [entry["message"] for entry in browser.messages()] == []


def mouse(page: Browser, *steps: dict[str, Any]) -> None:
    pointer = {"type": "pointer", "id": "mouse", "actions": list(steps)}
    page.call("POST", "/actions", {"actions": [pointer]})


def move(x: float, y: float) -> dict[str, Any]:
    return {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}


DOWN, UP = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}


def place_of_spot(page: Browser, spot: int) -> tuple[float, float]:
    """Where a spot is in the window."""
    x, y = page.run(f"""
        const box = document.getElementById('canvas').getBoundingClientRect();
        const data = JSON.parse(document.getElementById('data').textContent);
        const bytes = GeneMap.bytes(data.spots.xy);
        const xy = new Float32Array(bytes.buffer);
        const scale = Math.min(box.width / data.slide.width, box.height / data.slide.height);
        const left = (box.width - data.slide.width * scale) / 2;
        const top = (box.height - data.slide.height * scale) / 2;
        const [x, y] = xy.subarray({2 * spot}, {2 * spot + 2});
        return [box.left + left + x * scale, box.top + top + y * scale];
    """)
    return x, y


def colors(page: Browser) -> np.ndarray[Any, Any]:
    """The drawn pixels, once all tiles in view have come."""
    page.run("return new Promise(done => setTimeout(done, 700))")
    # tiles from files taint the canvas, so that its pixels are those of the screen
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    box = page.run(
        "const b = document.getElementById('canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom].map(Math.round)"
    )
    return np.asarray(shot.crop(tuple(box)))


def share_near(picture: np.ndarray[Any, Any], color: tuple[int, int, int]) -> float:
    return float((np.abs(picture.astype(int) - color).max(axis=2) < 30).mean())


def test_tiles_appear_under_the_map_when_it_is_zoomed(page: Browser) -> None:
    page.run(
        "document.getElementById('opacity').value = 0;"
        "document.getElementById('opacity').dispatchEvent(new Event('input'))"
    )
    assert share_near(colors(page), BLUE) < 0.01, "the whole slide is the thumbnail"
    page.type("#canvas", "++++")
    shown = colors(page)
    assert share_near(shown, BLUE) > 0.3
    assert share_near(shown, RED) > 0.3
    middle = shown.shape[1] // 2
    assert share_near(shown[:, : middle - 60], RED) < 0.02
    assert page.run("return document.getElementById('no-tiles').hidden")


def test_gray_tissue_has_gray_tiles(page: Browser) -> None:
    page.run(
        "document.getElementById('opacity').value = 0;"
        "document.getElementById('opacity').dispatchEvent(new Event('input'));"
        "const s = document.getElementById('tissue'); s.value = 'gray';"
        "s.dispatchEvent(new Event('change'))"
    )
    page.type("#canvas", "++++")
    shown = colors(page)[100:-100, 100:-100].astype(int)
    assert np.ptp(shown, axis=2).max() < 40


def test_missing_tiles_are_named(
    browser: Browser, prediction: Prediction, zoom: ZoomTiles, tmp_path: Path
) -> None:
    write_report(prediction, tmp_path / "b.html", zoom=replace(zoom, folder_name="gone"))
    browser.open((tmp_path / "b.html").as_uri())
    browser.type("#canvas", "++++")
    colors(browser)
    assert not browser.run("return document.getElementById('no-tiles').hidden")
    assert "gone" in browser.run("return document.getElementById('no-tiles').textContent")
    assert all("ERR_FILE_NOT_FOUND" in entry["message"] for entry in browser.messages())


def test_a_click_lists_all_genes_of_the_spot(page: Browser, prediction: Prediction) -> None:
    x, y = place_of_spot(page, 8)
    mouse(page, move(x, y), DOWN, UP)
    shown = page.run(
        "return [...document.querySelectorAll('#spot-table tbody tr')].map(row =>"
        "[row.cells[0].textContent, row.cells[1].textContent])"
    )
    assert page.run("return document.querySelector('#spot-heading').textContent") == (
        "Spot in row 1, column 2"
    )
    values = dict(zip(prediction.genes, prediction.expression[8], strict=True))
    assert {gene for gene, _ in shown} == set(values)
    for gene, text in shown:
        assert float(text.replace("\u2212", "-")) == pytest.approx(float(values[gene]), abs=6e-4)
    page.click("#spot-table tbody button[data-index='1']")
    assert page.run("return document.getElementById('gene').value") == "FASN"
    page.click("#spot-table [data-close]")
    assert page.run("return document.getElementById('spot-table').hidden")


def test_a_drag_is_no_click_and_enter_is_one(page: Browser) -> None:
    x, y = place_of_spot(page, 8)
    mouse(page, move(x, y), DOWN, move(x + 30, y + 10), UP)
    assert page.run("return document.getElementById('spot-table').hidden")
    page.type("#canvas", "0" + RIGHT + ENTER)
    assert not page.run("return document.getElementById('spot-table').hidden")


def lasso_around(page: Browser, first: int, last: int) -> None:
    (x0, y0), (x1, y1) = place_of_spot(page, first), place_of_spot(page, last)
    x0, y0, x1, y1 = x0 - 5, y0 - 5, x1 + 5, y1 + 5
    page.click("#lasso")
    mouse(page, move(x0, y0), DOWN, move(x1, y0), move(x1, y1), move(x0, y1), move(x0, y0 + 1), UP)


def test_lasso_selects_the_spots_inside_and_saves_them(
    page: Browser, prediction: Prediction
) -> None:
    lasso_around(page, 7, 14)  # rows 1 and 2, columns 1 and 2
    inside = [7, 8, 13, 14]
    mean = prediction.expression[inside, 0].mean()
    assert page.run("return document.getElementById('selected').textContent").startswith(
        f"4 spots selected; mean GNAS {mean:.3f}, elsewhere "
    )
    page.run(
        "URL.createObjectURL = (blob) => { window.saved = blob; return '#'; };"
        "HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; };"
    )
    page.click("#download")
    assert page.run("return window.savedAs") == "section A-selected.csv"
    table = pd.read_csv(io.StringIO(page.run("return window.saved.text()")))
    assert table["spot"].to_list() == ["1x1", "2x1", "1x2", "2x2"]
    np.testing.assert_allclose(table["GNAS"], prediction.expression[inside, 0], atol=1e-4)
    np.testing.assert_allclose(
        table[["level0_x_px", "level0_y_px"]], prediction.level0_xy[inside], atol=0.01
    )
    page.click("#unselect")
    assert page.run("return document.getElementById('selection').hidden")
    assert (
        page.run("return document.getElementById('lasso').getAttribute('aria-pressed')") == "true"
    )


def test_saved_names_are_no_formulas(page: Browser) -> None:
    cells = page.run("return ['=A1', '@x', 'a,b', 'a\"b', 'GNAS'].map(SpotTable.cell)")
    assert cells == ["'=A1", "'@x", '"a,b"', '"a""b"', "GNAS"]


def test_measured_values_are_listed_and_saved_too(
    browser: Browser, prediction: Prediction, measured: Measured, tmp_path: Path
) -> None:
    write_report(prediction, tmp_path / "c.html", measured=measured)
    browser.open((tmp_path / "c.html").as_uri())
    browser.type("#canvas", RIGHT + ENTER)
    heads = browser.run(
        "return [...document.querySelectorAll('#spot-table th[scope=col]')].map(n => n.textContent)"
    )
    assert heads == ["Gene", "Predicted", "Measured", "In its color range"]
    assert browser.messages() == []
