"""``predict`` over several slides: manifests, the summary, going on later, workers."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import assert_refused
from triplex_deploy.cli.main import run

ROWS = ["photo a.png,0.5,first", "ü.png,0.55,sub/second", "bad.svs,,", "photo a.png,0.6,third"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four predictions of three files, one of which is no slide."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("photo a.png", "ü.png"):
        pixels = rng.integers(60, 200, (300, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "bad.svs").write_text("not a slide")
    for path in folder.iterdir():
        path.chmod(0o444)
    path = folder / "manifest.csv"
    path.write_text("\n".join(["slide,mpp,output", *ROWS]), encoding="utf-8")
    return path


@pytest.fixture
def predict_all(predict):
    def call(*arguments: object):
        return predict(*arguments, "--all-tiles", "--no-report")

    return call


def test_failing_slide_does_not_stop_the_others_and_the_table_says_so(
    predict_all, manifest: Path, tmp_path: Path
) -> None:
    finished = predict_all(manifest)
    assert finished.status == 3
    header, *rows = [line.split("\t") for line in finished.out.splitlines()]
    assert header == ["slide", "spots", "seconds", "spots/s", "status", "error"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("photo a.png", "1", "done"),
        ("ü.png", "1", "done"),
        ("bad.svs", "", "failed"),
        ("photo a.png", "1", "done"),
    ]
    assert "not a slide" in rows[2][5]
    assert all(float(row[2]) > 0 for row in rows if row[4] == "done")
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    written = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.h5ad")}
    assert written == {"first.h5ad", "sub/second.h5ad", "third.h5ad"}


def test_a_wrong_gene_is_told_once(predict_all, manifest: Path, tmp_path: Path) -> None:
    finished = predict_all(manifest, "--genes", "NOPE")
    assert (finished.status, finished.out) == (1, "")
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "gene NOPE: it is not predicted" in errors[0]
    assert not list((tmp_path / "out").iterdir())


def test_second_run_skips_what_is_complete_and_the_json_tells_all(
    predict_all, manifest: Path
) -> None:
    predict_all(manifest)
    finished = predict_all(manifest, "--json")
    assert finished.status == 3
    again = json.loads(finished.out)
    assert [entry["status"] for entry in again["done"]] == ["skipped"] * 3
    assert [entry["spots"] for entry in again["done"]] == [1, 1, 1]
    assert [entry["slide_mpp"] for entry in again["done"]] == [0.5, 0.55, 0.6]
    assert again["done"][1]["prediction"].endswith("out/sub/second.h5ad")
    assert [entry["status"] for entry in again["failed"]] == ["failed"]


def test_several_reports_get_an_index_that_links_them(
    predict, manifest: Path, tmp_path: Path
) -> None:
    finished = predict(manifest, "--all-tiles", "--json")
    assert finished.status == 3
    index = tmp_path / "out" / "index.html"
    assert json.loads(finished.out)["index"] == str(index)
    page = index.read_text(encoding="utf-8")
    for link in ('href="first.html"', 'href="sub/second.html"', 'href="third.html"'):
        assert link in page
    assert "not a slide" in page, "a failed slide is shown with its error"
    index.write_text("my own page")
    again = predict(manifest, "--all-tiles", "--json")
    assert json.loads(again.out)["index"] is None
    assert "no index is written" in again.err
    assert index.read_text() == "my own page"


def test_two_workers_write_what_one_process_writes(
    invoke, bundle, manifest: Path, tmp_path: Path
) -> None:
    values = []
    for out, workers in (("one", 1), ("two", 2)):
        where = ["--bundle", bundle.path, "--out", tmp_path / out, "--all-tiles", "--no-report"]
        finished = invoke("predict", manifest, *where, "--workers", workers, "--threads", 1)
        assert finished.status == 3, finished.err
        tables = sorted((tmp_path / out).rglob("*.h5ad"))
        assert [path.name for path in tables] == ["first.h5ad", "second.h5ad", "third.h5ad"]
        values.append([h5py.File(path)["X"][:] for path in tables])
    np.testing.assert_array_equal(values[0], values[1])


def test_all_failed_is_status_1(predict_all, tmp_path: Path) -> None:
    finished = predict_all(tmp_path / "a.svs", tmp_path / "b.svs")
    assert finished.status == 1
    assert "a.svs" in finished.out
    assert "b.svs" in finished.err


def test_fault_of_a_manifest_refuses_all_with_its_line(
    predict_all, manifest: Path, tmp_path: Path
) -> None:
    with manifest.open("a") as file:
        file.write("\nü.png,,first\n")
    assert_refused(predict_all(manifest), tmp_path / "out", "manifest.csv line 6", "line 2")
    manifest.write_text("slide,stain\nü.png,HE\n")
    assert_refused(predict_all(manifest), tmp_path / "out", "line 1", "stain")


def test_folder_is_predicted_whole_and_below_where_asked(
    predict_all, manifest: Path, tmp_path: Path
) -> None:
    below = manifest.parent / "below"
    below.mkdir()
    (manifest.parent / "ü.png").rename(below / "ü.png")
    for option, names in (((), ["photo a.h5ad"]), (("--recursive",), ["photo a.h5ad", "ü.h5ad"])):
        finished = predict_all(manifest.parent, "--mpp", "0.5", *option)
        assert finished.status == 3  # bad.svs
        assert sorted(path.name for path in (tmp_path / "out").glob("*.h5ad")) == names


def test_cache_folder_is_filled_and_kept(predict_all, manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    slide = manifest.parent / "ü.png"
    first = predict_all(slide, "--mpp", "0.5", "--cache", cache, "--json")
    second = predict_all(slide, "--mpp", "0.5", "--cache", cache, "--json", "--no-resume")
    assert json.loads(first.out)["done"][0]["tiles_from_cache"] == 0
    assert json.loads(second.out)["done"][0]["tiles_encoded"] == 0


def test_regions_and_half_features_reach_the_prediction(predict_all, manifest: Path) -> None:
    options = ("--mpp", "0.5", "--region-mm", "0.1", "--half-features", "--json")
    finished = predict_all(manifest.parent / "ü.png", *options)
    assert json.loads(finished.out)["done"][0]["regions"] == 1
    assert predict_all(manifest.parent / "ü.png", "--region-mm", "0.01").status == 1


def test_terminal_gets_a_drawn_table(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from triplex_deploy.cli.slides_summary import print_slides
    from triplex_deploy.cohort.job import Job, Outcome
    from triplex_deploy.pipeline.options import PredictOptions

    def outcome(name: str, **values: Any) -> Outcome:
        job = Job(Path(name), Path("out") / f"{name}.h5ad", PredictOptions())
        return Outcome(job, **{"status": "done", "seconds": 2.0, **values})

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    print_slides(
        [
            outcome("[red] a.svs", metadata={"spots": 50}),
            outcome("b.svs", status="failed", error="b.svs: empty"),
        ],
        as_json=False,
        out=Path("out"),
    )
    drawn = capsys.readouterr().out
    assert "[red] a.svs" in drawn, "a name is no markup"
    assert "25.0" in drawn
    assert "empty" in drawn
    assert "b.svs: empty" not in drawn, "the first column names the slide"
    assert "\t" not in drawn


def test_unknown_executor_and_no_workers_are_usage_errors() -> None:
    for option in (("--executor", "slurm"), ("--engine", "slurm"), ("--workers", "0")):
        assert run(["predict", "a.svs", "--bundle", "b", "--out", "o", *option]) == 2
