"""The demo as a first-time user runs it; its quick form once for all tests here."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.cli.conftest import Finished, Invoke
from triplex_deploy.cli.main import run

pytestmark = pytest.mark.torch

STAGES = ("data", "prepare", "train", "export", "predict", "evaluate", "report")


def _demo(*arguments: object) -> Finished:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run(["demo", *map(str, arguments)])
    return Finished(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo-out"


@pytest.fixture(scope="module")
def quick(folder: Path) -> Finished:
    return _demo("--out", folder, "--quick", "--json")


def test_stages_are_announced_in_order(quick: Finished) -> None:
    assert quick.status == 0, quick.err
    announced = [
        line for line in quick.err.splitlines() if line[:3] in {f"{i}/7" for i in range(1, 8)}
    ]
    assert [line.split()[1].rstrip(":") for line in announced] == list(STAGES)


def test_every_step_leaves_its_files(quick: Finished, folder: Path) -> None:
    for name in (
        "checkpoint.ckpt",
        "bundle/manifest.json",
        "bundle/parity.json",
        "slide.tif",
        "prediction/slide.h5ad",
        "prediction/slide.json",
        "prediction/slide.html",
        "dataset/ST-imgs/C/C1/C1.tif",
        "dataset/ST-cnts/C1.tsv.gz",
        "prepared/prepared.json",
        "dataset/ST-spotfiles/C1_selection.tsv",
        "run/fold-2/metrics.json",
        "truth.h5ad",
        "metrics.json",
        "metrics.png",
        "metrics-maps.png",
    ):
        assert (folder / name).is_file(), name


def test_summary_and_file_tell_the_same_scores(quick: Finished, folder: Path) -> None:
    summary = json.loads(quick.out)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert summary["metrics"]["model"]["mse"] == metrics["model"]["mse"]
    assert len(metrics["genes"]) == len(metrics["model"]["pcc"]) == 30
    assert "not valid for real slides" in metrics["note"]


def test_weights_say_everywhere_that_they_are_of_made_up_tissue(
    quick: Finished, folder: Path
) -> None:
    note = "not valid for real slides"
    assert note in quick.err
    assert note in (folder / "bundle/README.md").read_text()
    assert note in (folder / "prediction/slide.html").read_text()


def test_unseen_patient_took_no_part_in_training(quick: Finished, folder: Path) -> None:
    trained = json.loads((folder / "metrics.json").read_text())["trained"]
    assert sorted(trained["fitted_on"] + trained["selected_on"]) == ["A1", "B1"]


def test_bundle_scores_what_training_measured(quick: Finished, folder: Path) -> None:
    deployed = json.loads((folder / "metrics.json").read_text())["model"]
    measured = json.loads((folder / "run/fold-2/metrics.json").read_text())
    trained = measured["calibrated"]  # as the bundle is
    assert deployed["pcc_m"] == pytest.approx(trained["pcc_m"], abs=1e-3)
    assert deployed["mse"] == pytest.approx(trained["mse"], rel=1e-3)


def test_even_the_quick_model_correlates_but_not_more_than_noise_allows(
    quick: Finished, folder: Path
) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0.1 < metrics["model"]["pcc_m"] < metrics["noise_ceiling"]["pcc_m"]


def test_report_shows_the_truth_beside_the_prediction(quick: Finished, folder: Path) -> None:
    page = (folder / "prediction/slide.html").read_text()
    assert "Measured counts are synthetic and include their noise" in page


def test_folder_of_something_else_is_left_alone(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("x")
    finished = invoke("demo", "--out", tmp_path, "--quick")
    assert finished.status == 1
    assert "holds other files, such as" in finished.err
    assert (tmp_path / "run/mine.txt").read_text() == "x"


@pytest.mark.slow
def test_an_earlier_demo_is_made_again_with_equal_scores(quick: Finished, folder: Path) -> None:
    before = (folder / "metrics.json").read_bytes()
    assert _demo("--out", folder, "--quick").status == 0
    assert (folder / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_full_demo_learns_what_the_drawing_tells(tmp_path: Path) -> None:
    finished = _demo("--out", tmp_path / "demo")
    assert finished.status == 0, finished.err
    metrics = json.loads((tmp_path / "demo/metrics.json").read_text())
    pcc = dict(zip(metrics["genes"], metrics["model"]["pcc"], strict=True))
    assert metrics["model"]["pcc_m"] > 0.5
    assert min(pcc[gene] for gene in ("ERBB2", "MUC1", "COL1A1")) > 0.6
    assert sum(value > 0.2 for value in pcc.values()) >= 25
    assert metrics["model"]["mse"] < 0.8 * metrics["constant"]["mse"]
    for text in (
        "PCC ",
        "of a patient that training never saw",
        "for the training mean everywhere",
    ):
        assert text in finished.out
    assert "not valid for real slides" in finished.out
    assert "triplex-deploy prepare DATASET" in finished.out
