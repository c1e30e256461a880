import json
import re
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.files import write_outputs

RC = np.array([[row, column] for row in range(4) for column in range(5)], np.int64)
GENES = ("GNAS", "FASN", "MUC1")
LN = LabelTransform(library="all", log="ln", smoothing="none")


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(5, (20, 3)).astype(np.float32)


@pytest.fixture
def prediction(counts: np.ndarray) -> Prediction:
    """Exactly the labels of the counts, under a transform that is not the paper's."""
    return Prediction(
        slide_name="slide",
        expression=LN(counts, RC, counts.sum(axis=1) + 7).astype(np.float32),
        genes=GENES,
        level0_xy=RC[:, ::-1].astype(np.float64) * 100 + 50,
        grid_rc=RC,
        slide_size_wh=(500, 400),
        slide_mpp=0.5,
        spot_diameter_px=100.0,
        thumbnail=np.full((40, 50, 3), 230, np.uint8),
        run={"layout": "grid", "label_transform": LN.to_dict(), "spots_per_s": 3.0},
    )


@pytest.fixture
def table(prediction: Prediction, tmp_path: Path) -> Path:
    return write_outputs(prediction, tmp_path, report=False)


@pytest.fixture
def truth(counts: np.ndarray, tmp_path: Path) -> Path:
    """The counts but two spots, in another order, without MUC1, and with a gene nobody predicts."""
    order = np.random.default_rng(1).permutation(18)
    muc1 = counts[order, 2:]
    others = np.column_stack([muc1, np.full(18, 7, np.float32)])
    values = np.column_stack([others.sum(axis=1), counts[order][:, 1::-1]])
    obs = pd.DataFrame(
        {"array_row": RC[order, 0], "array_col": RC[order, 1]},
        index=[f"barcode{spot}" for spot in order],
    )
    var = pd.DataFrame(index=["OTHER", "FASN", "GNAS"])
    path = tmp_path / "truth.h5ad"
    spatial = {"spatial": RC[order, ::-1] * 100.0 + 50}
    anndata.AnnData(values.astype(np.float32), obs, var, obsm=spatial).write_h5ad(path)
    return path


def data_of(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


def test_report_is_written_beside_the_prediction(invoke, table: Path) -> None:
    done = invoke("report", table)
    assert (done.status, done.err) == (0, "")
    page = table.with_suffix(".html")
    assert done.out == f"{page}: 20 spots, 3 genes\n"
    assert data_of(page)["genes"]["names"] == list(GENES)
    assert data_of(page)["measured"] is None


def test_truth_goes_through_the_recorded_transform(
    invoke, table: Path, truth: Path, tmp_path: Path
) -> None:
    out = tmp_path / "both.html"
    done = invoke("report", table, "--truth", truth, "--out", out, "--json")
    assert json.loads(done.out) == {
        "report": str(out),
        "spots": 20,
        "genes": 3,
        "spots_measured": 18,
        "genes_measured": 2,
        "median_pcc": pytest.approx(1.0, abs=1e-6),
    }
    data = data_of(out)
    assert data["genes"]["pcc"] == [1.0, 1.0, None]
    for end in ("low", "high"):  # the same numbers, not just the same pattern
        assert data["measured"][end][0] == pytest.approx(data["genes"][end][0], rel=1e-5)
    assert "ln(1 + 10,000 × share of all counts)" in out.read_text(encoding="utf-8")


def test_a_prediction_without_a_transform_takes_the_papers_and_says_so(
    invoke, prediction: Prediction, truth: Path, tmp_path: Path
) -> None:
    table = write_outputs(replace(prediction, slide_name="old", run={}), tmp_path)
    done = invoke("report", table, "--truth", truth)
    assert done.status == 0
    assert "records no label transform; the paper's is used" in done.err
    assert "lacks genes of the panel: 1" in done.err


def test_chosen_genes_are_compared_alone(invoke, table: Path, truth: Path) -> None:
    done = invoke("report", table, "--truth", truth, "--genes", "FASN")
    assert done.out.endswith("20 spots, 1 gene; 1 measured on 18 spots, median PCC 1.0000\n")
    assert data_of(table.with_suffix(".html"))["genes"]["names"] == ["FASN"]


def test_a_folder_becomes_an_index(invoke, prediction: Prediction, tmp_path: Path) -> None:
    write_outputs(prediction, tmp_path)
    write_outputs(replace(prediction, slide_name="two"), tmp_path)
    done = invoke("report", tmp_path, "--json")
    assert done.status == 0
    assert json.loads(done.out) == {
        "index": str(tmp_path / "index.html"),
        "slides": ["slide", "two"],
        "failed": [],
    }
    assert 'href="two.html"' in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_predictions_in_subfolders_are_found_and_linked(
    invoke, prediction: Prediction, tmp_path: Path
) -> None:
    for place in ("batch 1/deep", ".hidden"):
        (tmp_path / place).mkdir(parents=True)
        write_outputs(prediction, tmp_path / place)
    done = invoke("report", tmp_path, "--json")
    assert json.loads(done.out)["slides"] == ["batch 1/deep/slide"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="batch%201/deep/slide.html"' in page


def test_an_unreadable_slide_of_a_folder_is_listed(
    invoke, prediction: Prediction, tmp_path: Path
) -> None:
    import h5py

    for name in ("good", "torn"):
        write_outputs(replace(prediction, slide_name=name), tmp_path)
    with h5py.File(tmp_path / "torn.h5ad", "a") as file:
        del file["obs/array_row"]
    done = invoke("report", tmp_path)
    assert done.status == 3
    assert done.out == f"{tmp_path / 'index.html'}: 1 slide, 1 failed: torn\n"
    assert "torn.h5ad: cannot be read as h5ad" in done.err


def test_a_slide_that_predict_could_not_read_stays_listed(
    invoke, prediction: Prediction, tmp_path: Path
) -> None:
    from triplex_deploy.outputs.cohort import write_cohort_index
    from triplex_deploy.outputs.slide_summary import SlideSummary

    write_outputs(prediction, tmp_path)
    failed = SlideSummary.failed("torn", "torn.svs: cannot be opened")
    write_cohort_index(tmp_path, [SlideSummary.of(prediction), failed])
    done = invoke("report", tmp_path)
    assert (done.status, done.err) == (3, "")
    assert done.out == f"{tmp_path / 'index.html'}: 1 slide, 1 failed: torn\n"
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "torn.svs: cannot be opened" in page


def test_mistakes_are_one_line_and_change_nothing(
    invoke, table: Path, truth: Path, tmp_path: Path
) -> None:
    wrong = invoke("report", table, "--genes", "GNSA")
    assert (wrong.status, wrong.err) == (
        1,
        "error: gene GNSA: it is not predicted; did you mean GNAS?\n",
    )
    assert "no such file" in invoke("report", tmp_path / "absent.h5ad").err
    assert "not a prediction" in invoke("report", truth, "--out", tmp_path / "a.html").err
    own = tmp_path / "own.html"
    own.write_text("<p>mine</p>")
    assert "is not a report written by" in invoke("report", table, "--out", own).err
    assert own.read_text() == "<p>mine</p>"
    folder = invoke("report", tmp_path, "--genes", "GNAS")
    assert (folder.status, f"an index, {tmp_path / 'index.html'}" in folder.err) == (2, True)
    without = invoke("report", table, "--zoom-um", "1")
    assert (without.status, "give the slide with --zoom" in without.err) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no prediction" in invoke("report", empty).err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"slide.h5ad", "slide.json", "truth.h5ad", "own.html", "empty"}


def test_zoom_writes_tiles_beside_the_page(invoke, table: Path, tmp_path: Path) -> None:
    slide = tmp_path / "slide.png"
    Image.fromarray(np.full((400, 500, 3), (150, 60, 150), np.uint8)).save(slide)
    out = tmp_path / "near.html"
    done = invoke("report", table, "--zoom", slide, "--zoom-um", "1", "--out", out)
    assert done.status == 0, done.err
    assert done.out == f"{out}: 20 spots, 3 genes; keep near_tiles beside it\n"
    html = out.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    zoom = json.loads(found[1])["zoom"]
    assert (zoom["folder"], zoom["scale"], zoom["width"]) == ("near_tiles", 2.0, 250)
    assert (tmp_path / "near_tiles" / "slide_files" / "8" / "0_0.jpg").is_file()


def test_zoom_refuses_another_slide(invoke, table: Path, tmp_path: Path) -> None:
    slide = tmp_path / "other.png"
    Image.fromarray(np.full((300, 500, 3), 150, np.uint8)).save(slide)
    done = invoke("report", table, "--zoom", slide, "--out", tmp_path / "near.html")
    assert done.status == 1
    assert "other.png: has 500 x 300 px, the predicted slide 500 x 400 px" in done.err
    assert not (tmp_path / "near.html").exists()
    assert not (tmp_path / "near_tiles").exists()
