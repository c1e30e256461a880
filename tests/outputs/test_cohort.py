import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.cautions import NOT_HE, UNLIKE
from triplex_deploy.outputs.cohort import (
    SlideCard,
    page_names,
    summarize_folder,
    summarize_prediction,
    write_cohort_index,
    write_index_pages,
)
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.outputs.slide_summary import SlideSummary

RUN = {"layout": "grid", "spots_per_s": 12.3456, "timings_s": {"read": 1.0, "total": 2.5}}


def named(prediction: Prediction, name: str) -> Prediction:
    return replace(prediction, slide_name=name, run=RUN)


def test_a_summary_keeps_what_a_card_shows(prediction: Prediction) -> None:
    one = SlideSummary.of(named(prediction, "A"))
    assert (one.n_spots, one.spots_per_s, one.seconds) == (30, 12.35, 2.5)
    assert one.size_mm == (0.8, 0.6)
    assert [gene.name for gene in one.genes] == ["GNAS", "FASN", "ERBB2"]  # by Moran's I
    assert one.genes[2].mean == 0.5
    assert one.genes[2].moran is None  # constant
    assert one.genes[0].mean == pytest.approx(float(prediction.expression[:, 0].mean()), rel=1e-3)


def test_the_map_shows_the_strongest_gene_on_the_tissue(prediction: Prediction) -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    white = replace(prediction, thumbnail=np.full((600, 800, 3), 255, np.uint8))
    picture = np.asarray(Image.open(BytesIO(b64decode(SlideSummary.of(white).map_jpeg))))
    assert picture.shape == (195, 260, 3)
    assert picture[190, 255].min() > 245  # no spot in the corner
    lowest = int(prediction.expression[:, 0].argmin())
    x, y = (prediction.level0_xy[lowest] * 260 / 3200).astype(int)
    assert np.abs(picture[y, x].astype(int) - (68, 1, 84)).max() < 30  # viridis begins so


def test_the_index_links_reports_and_names_failures(prediction: Prediction, tmp_path: Path) -> None:
    write_outputs(named(prediction, "slide é 1"), tmp_path)
    write_outputs(named(prediction, "B"), tmp_path, report=False)
    (tmp_path / "notes.h5ad").write_text("somebody's file")
    summaries = [*summarize_folder(tmp_path), SlideSummary.failed("C", "C.svs: <torn>; rescan")]
    page = write_cohort_index(tmp_path, summaries)
    assert page == tmp_path / "index.html"
    html = page.read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^#"][^"]*)">', html) == ["slide%20%C3%A9%201.html"]
    assert re.findall(r'data-status="(\w+)"', html) == ["done", "done", "failed"]
    assert "C.svs: &lt;torn&gt;; rescan" in html
    data = re.search(r'id="data">(.*?)</script>', html)
    assert data
    assert list(json.loads(data[1])[0]) == ["GNAS", "FASN", "ERBB2"]
    assert json.loads(data[1])[2] == {}
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert [path.name for path in tmp_path.glob(".triplex*")] == []


def test_the_index_names_slides_not_to_rely_on(prediction: Prediction, tmp_path: Path) -> None:
    runs = ({"tissue": "like the training tissue"}, {"tissue": UNLIKE}, {NOT_HE: "it is dark"})
    for name, run in zip("ABC", runs, strict=True):
        write_outputs(replace(prediction, slide_name=name, run=run), tmp_path)
    summaries = summarize_folder(tmp_path)
    found = [summary.caution for summary in summaries]
    assert found == ["", "unlike the training tissue", "hardly H&E in brightfield"]
    html = write_cohort_index(tmp_path, summaries).read_text(encoding="utf-8")
    assert html.count("Do not rely on it:") == 2


def test_an_unreadable_prediction_is_a_failed_slide(prediction: Prediction, tmp_path: Path) -> None:
    import h5py

    write_outputs(named(prediction, "A"), tmp_path)
    with h5py.File(tmp_path / "A.h5ad", "a") as file:
        del file["obs/array_row"]
    (one,) = summarize_folder(tmp_path)
    assert one == summarize_prediction(tmp_path / "A.h5ad")
    assert one.slide_name == "A"
    assert "run triplex-deploy predict again" in one.error


def test_slides_that_failed_stay_in_the_index(prediction: Prediction, tmp_path: Path) -> None:
    """Their errors are in the index alone, which is written anew from the folder."""
    write_outputs(named(prediction, "B"), tmp_path)
    torn = SlideSummary.failed("A", "A.svs: </script> torn; scan it again")
    empty = SlideSummary.failed("C", "C.svs: no tissue")
    write_cohort_index(tmp_path, [torn, summarize_prediction(tmp_path / "B.h5ad"), empty])
    for _ in range(2):
        summaries = summarize_folder(tmp_path)
        assert [summary.slide_name for summary in summaries] == ["A", "B", "C"]
        assert (summaries[0], summaries[2]) == (torn, empty)
        write_cohort_index(tmp_path, summaries)
    write_outputs(named(prediction, "C"), tmp_path)  # the slide is predicted after all
    assert [summary.slide_name for summary in summarize_folder(tmp_path) if summary.error] == ["A"]


def test_somebody_elses_index_names_no_failures(prediction: Prediction, tmp_path: Path) -> None:
    write_outputs(named(prediction, "B"), tmp_path)
    element = '<script type="application/json" id="failures">{"X": "made up"}</script>'
    (tmp_path / "index.html").write_text(element)
    assert [summary.slide_name for summary in summarize_folder(tmp_path)] == ["B"]


@pytest.mark.parametrize("content", ["{", "[1]", "null", '{"X": ' + "[" * 100_000])
def test_damaged_failures_of_an_index_are_ignored(
    prediction: Prediction, tmp_path: Path, content: str
) -> None:
    write_outputs(named(prediction, "B"), tmp_path)
    page = write_cohort_index(tmp_path, [SlideSummary.failed("X", "torn")])
    html = page.read_text(encoding="utf-8")
    damaged = re.sub(r'(id="failures">).*?(</script>)', lambda m: m[1] + content + m[2], html)
    assert damaged != html
    page.write_text(damaged, encoding="utf-8")
    assert [summary.slide_name for summary in summarize_folder(tmp_path)] == ["B"]


def test_a_folder_without_predictions_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no prediction; give the --out folder"):
        summarize_folder(tmp_path)


def test_somebody_elses_index_is_kept(prediction: Prediction, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>my site</h1>")
    with pytest.raises(
        OutputError, match="is not a report written by triplex-deploy; choose another name"
    ):
        write_cohort_index(tmp_path, [SlideSummary.of(prediction)])
    assert (tmp_path / "index.html").read_text() == "<h1>my site</h1>"


def test_an_earlier_index_is_replaced(prediction: Prediction, tmp_path: Path) -> None:
    write_cohort_index(tmp_path, [SlideSummary.of(prediction)])
    page = write_cohort_index(tmp_path, [SlideSummary.failed("C", "torn")])
    assert "torn" in page.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [page]


def card(name: str, error: str = "") -> SlideCard:
    """A slide of ten spots, or one that failed."""
    summary = SlideSummary.failed(name, error) if error else SlideSummary(name, n_spots=10)
    return SlideCard(name, lambda: summary)


def test_many_slides_get_several_pages(tmp_path: Path) -> None:
    cards = [card(f"s{number}", "torn" if number == 3 else "") for number in range(5)]
    index = write_index_pages(tmp_path, cards, per_page=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(page_names(5, 2))
    assert page_names(5, 2) == ["index.html", "index-2.html", "index-3.html"]
    assert index.path == tmp_path / "index.html"
    assert index.done == ("s0", "s1", "s2", "s4")
    assert index.failed == {"s3": "torn"}
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in page_names(5, 2)]
    names = [re.findall(r'data-name="(\w+)"', page) for page in pages]
    assert names == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    for page in pages:
        assert re.findall(r'<li><a href="(index[^"]*)"[^>]*>[1-5]', page) == page_names(5, 2)
    assert "Slides 3 to 4 of 5 are on this page" in pages[1]
    assert "<b>40</b> spots" in pages[0]  # of all pages
    assert "<b>10</b> spots" in pages[1]
    assert '<a href="index-2.html">s3</a>' in pages[0]
    assert [summary.slide_name for summary in summarize_folder(tmp_path)] == ["s3"]


def test_only_the_slides_of_one_page_are_in_memory(tmp_path: Path) -> None:
    import weakref

    alive: list[weakref.ref[SlideSummary]] = []
    most = 0

    def made(name: str) -> SlideSummary:
        nonlocal most
        summary = SlideSummary(name, n_spots=1)
        alive.append(weakref.ref(summary))
        most = max(most, sum(reference() is not None for reference in alive))
        return summary

    cards = [SlideCard(f"s{number}", partial(made, f"s{number}")) for number in range(20)]
    write_index_pages(tmp_path, cards, per_page=3)
    assert len(alive) == 20
    assert most <= 6  # a page, while the next is made


def test_pages_of_a_longer_index_are_removed(prediction: Prediction, tmp_path: Path) -> None:
    write_index_pages(tmp_path, [card(f"s{number}") for number in range(9)], per_page=2)
    write_outputs(named(prediction, "index-4"), tmp_path)  # a report among them
    write_index_pages(tmp_path, [card("s0")], per_page=2)
    left = sorted(path.name for path in tmp_path.glob("index*.html"))
    assert left == ["index-4.html", "index.html"]
    (tmp_path / "index-2.html").write_text("my own page")
    write_index_pages(tmp_path, [card("s0")], per_page=2)
    assert (tmp_path / "index-2.html").read_text() == "my own page"


@pytest.mark.parametrize("name", ["index", "index-2"])
def test_a_page_never_replaces_the_report_of_a_slide(tmp_path: Path, name: str) -> None:
    cards = [card("a"), card("b"), card(name)]
    with pytest.raises(OutputError, match=rf"{name}\.html: is the report of a slide"):
        write_index_pages(tmp_path, cards, per_page=2)
    assert list(tmp_path.iterdir()) == []
