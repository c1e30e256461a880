"""``predict``: the files it leaves, what it tells, and how it goes on after a fault."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.conftest import Invoke, assert_refused
from triplex_deploy.runtime.model import RunnableBundle


@pytest.mark.filterwarnings("ignore:Use `squidpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_prediction_opens_in_scanpy(predict, slide_path: Path, tmp_path: Path) -> None:
    import matplotlib as mpl
    import scanpy as sc

    mpl.use("Agg")
    finished = predict(slide_path, "--json")
    assert finished.status == 0, finished.err
    summary = json.loads(finished.out)["done"][0]
    assert summary["spots"] > 2
    assert summary["spots_per_s"] > 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["my slide.h5ad", "my slide.html", "my slide.json"]
    table = sc.read_h5ad(tmp_path / "out" / "my slide.h5ad")
    assert table.shape == (summary["spots"], 30)
    assert table.X.dtype == np.float32
    assert (
        table.obs_names[0] == f"{table.obs['array_col'].iloc[0]}x{table.obs['array_row'].iloc[0]}"
    )
    assert table.uns["triplex"]["bundle_id"] == summary["bundle_id"]
    sc.pl.spatial(table, color="GNAS", show=False)


def test_summary_names_the_folder_as_it_was_typed(
    invoke: Invoke,
    bundle: RunnableBundle,
    slide_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("predict", slide_path, "--bundle", bundle.path, "--no-report")
    finished = invoke(*arguments, "--out", "out/../out")
    assert finished.status == 0, finished.err
    table, metadata, time, step = finished.out.splitlines()
    assert table.startswith("out/../out/my slide.h5ad: ")
    assert metadata == "out/../out/my slide.json: how it was predicted"
    total, *parts = (float(number) for number in re.findall(r"\d+\.\d", time))
    assert total == pytest.approx(sum(parts), abs=0.05 * len(parts) + 0.1)
    assert step.startswith("next: triplex-deploy report 'out/../out/my slide.h5ad'; ")
    again = invoke(*arguments, "--out", tmp_path / "out", "--json")
    assert json.loads(again.out)["done"][0]["prediction"] == str(tmp_path / "out/my slide.h5ad")


def test_predict_ends_with_what_it_wrote_and_the_next_step(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    lines = predict(slide_path).out.splitlines()
    out = tmp_path / "out"
    assert lines[1] == f"{out / 'my slide.html'}: report"
    assert lines[2] == f"{out / 'my slide.json'}: how it was predicted"
    assert lines[3].startswith("time: ")
    assert lines[4].startswith(f"next: open {out / 'my slide.html'} in a browser; ")
    again = predict(slide_path).out.splitlines()
    assert "(complete already)" in again[0]
    assert not any(line.startswith("time: ") for line in again), "nothing was predicted"


def test_zoom_adds_tiles_to_the_report(predict, slide_path: Path, tmp_path: Path) -> None:
    assert predict(slide_path, "--zoom").status == 0
    tiles = tmp_path / "out" / "my slide_tiles"
    assert (tiles / "slide.dzi").is_file()
    page = (tmp_path / "out" / "my slide.html").read_text(encoding="utf-8")
    assert '"folder":"my%20slide_tiles"' in page
    written = (tiles / "pyramid.json").stat().st_mtime_ns
    assert predict(slide_path, "--zoom").status == 0
    assert (tiles / "pyramid.json").stat().st_mtime_ns == written, "they are there already"
    assert predict(slide_path, "--zoom", "--no-report").status == 2


def test_report_can_be_left_out(predict, slide_path: Path, tmp_path: Path) -> None:
    assert predict(slide_path, "--no-report", "--genes", "FASN, GNAS").status == 0
    names = sorted(path.suffix for path in (tmp_path / "out").iterdir())
    assert names == [".h5ad", ".json"]
    assert predict(slide_path).status == 0
    assert (tmp_path / "out" / "my slide.html").exists()
    assert predict(slide_path, "--no-report", "--no-resume").status == 0
    assert not (tmp_path / "out" / "my slide.html").exists(), "an old report would mislead"


def test_progress_goes_to_stderr_and_quiet_silences_it(predict, slide_path: Path) -> None:
    finished = predict(slide_path)
    assert "encoding tiles" in finished.err
    assert "encoding tiles" not in finished.out
    quiet = predict(slide_path, "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_spots_file_without_array_coordinates_says_so(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    spots = tmp_path / "spots.csv"
    rows = [f"{150 + 200 * col},{150 + 200 * row}\n" for row in range(3) for col in range(3)]
    spots.write_text("pixel_x,pixel_y\n" + "".join(rows))
    finished = predict(slide_path, "--spots", spots, "--json")
    assert finished.status == 0, finished.err
    assert "warning: " in finished.err
    assert "inferred" in finished.err
    assert "Traceback" not in finished.err
    assert json.loads(finished.out)["done"][0]["spots"] == 9


def test_mask_and_all_tiles_take_the_place_of_the_tissue(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    everywhere = predict(slide_path, "--all-tiles", "--no-report", "--json")
    assert json.loads(everywhere.out)["done"][0]["spots"] == 9
    mask = np.zeros((70, 70), np.uint8)
    mask[:45, :45] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = predict(slide_path, "--mask", tmp_path / "mask.png", "--no-report", "--json")
    assert json.loads(masked.out)["done"][0]["spots"] == 4


def test_unreadable_tile_is_an_error_or_skipped_and_counted(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scratched.tif"
    path.write_bytes(slide_path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0].aspage()
        offset, count = int(page.dataoffsets[4]), int(page.databytecounts[4])  # the middle of 3 x 3
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    assert_refused(predict(path), tmp_path / "out", "scratched.tif", "--on-bad-tile skip")
    finished = predict(path, "--on-bad-tile", "skip", "--no-report", "--json")
    assert finished.status == 0, finished.err
    assert "warning: " in finished.err
    summary = json.loads(finished.out)["done"][0]
    assert summary["slide_tiles_unreadable"] == 1
    assert summary["spots"] > 2


def test_batch_size_is_auto_or_a_number(predict, slide_path: Path) -> None:
    assert predict(slide_path, "--batch-size", "3", "--no-report").status == 0
    assert predict(slide_path, "--batch-size", "many").status == 2
    assert predict(slide_path, "--batch-size", "0").status == 2


def test_failure_is_json_where_json_was_asked_for(predict, invoke: Invoke, tmp_path: Path) -> None:
    summary = json.loads(predict(tmp_path / "gone.svs", "--json").out)
    assert summary["done"] == []
    assert summary["failed"][0]["slide"].endswith("gone.svs")
    verified = invoke("verify", tmp_path / "nothing", "--json")
    assert verified.status == 1
    assert "no such folder" in json.loads(verified.out)["error"]


def test_one_bad_slide_of_several_does_not_stop_the_others(
    predict, slide_path: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_text("not a slide")
    finished = predict(bad, slide_path, "--no-report", "--json")
    assert finished.status == 3
    summary = json.loads(finished.out)
    assert [Path(entry["slide"]).name for entry in summary["done"]] == ["my slide.tif"]
    assert [Path(entry["slide"]).name for entry in summary["failed"]] == ["bad.svs"]
    assert (tmp_path / "out" / "my slide.h5ad").exists()
    assert not (tmp_path / "out" / "bad.h5ad").exists()


def test_bug_on_one_slide_does_not_stop_the_others(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.cohort import run_job as perform
    from triplex_deploy.pipeline.predict import predict_slide

    real = predict_slide

    def fails_on_the_first(slide: Path, *rest: Any) -> object:
        if slide.name == "first.tif":
            raise RuntimeError("a bug of ours")
        return real(slide, *rest)

    monkeypatch.setattr(perform, "predict_slide", fails_on_the_first)
    finished = predict(tmp_path / "first.tif", slide_path, "--no-report", "--json")
    assert finished.status == 3
    assert "a bug of ours" in json.loads(finished.out)["failed"][0]["error"]
    assert (tmp_path / "out" / "my slide.h5ad").exists()


def test_failure_while_writing_leaves_no_output_and_costs_no_encoding(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.errors import OutputError
    from triplex_deploy.outputs import files

    def full_disk(*_: object) -> None:
        raise OutputError("disk full; free some space")

    monkeypatch.setattr(files, "render_report", full_disk)
    finished = predict(slide_path)
    assert finished.status == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".my slide.part"]
    monkeypatch.undo()
    summary = json.loads(predict(slide_path, "--json").out)["done"][0]
    assert summary["tiles_encoded"] == 0
    assert summary["tiles_from_cache"] > 0
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [
        ".h5ad",
        ".html",
        ".json",
    ]


def test_interrupt_exits_with_one_line(
    predict, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.pipeline import predict as pipeline

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "encode_tiles", interrupted)
    finished = predict(slide_path)
    assert finished.status == 130
    assert "error: interrupted" in finished.err
    assert list((tmp_path / "out").iterdir()) == []
