"""Files of version 0.1.0 still open, give the same numbers, and its names are still understood.

Only the public API and the command line are used, so that modules are free to move.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import triplex_deploy
from tests.invoke import Finished, Invoke
from tests.shared_cache import share_traces
from triplex_deploy import PredictOptions, load_bundle, predict_slide
from triplex_deploy.cli import main

pytestmark = pytest.mark.torch

ARCHIVE = Path(__file__).with_name("version-0.1.0.tar.xz")
FAMILIES = ("triplex", "his_to_gene")
COMMANDS = (
    "bench",
    "bench compare",
    "completion",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "import-checkpoint",
    "predict",
    "prepare",
    "report",
    "study",
    "train",
    "verify",
)
ATOL = 1e-5
SAME_RUNTIME = ("--device", "cpu", "--backend", "onnxruntime")
"""What version 0.1.0 predicted with. Another runtime adds in another order, which changes the last
digits by more than ``ATOL``."""
METRICS_RTOL = 1e-3
"""Trainings add up in another order where there are other cores."""


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive; tests copy what they change."""
    folder = tmp_path_factory.mktemp("version-0.1.0")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def interface(old: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((old / "interface.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(autouse=True)
def _old_home(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the old version remembered of its machine is there; no user's defaults are."""
    shutil.copytree(old / "home", tmp_path / "home")
    share_traces(tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no user"))


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        status = left.value.code
        assert isinstance(status, int)
        return Finished(status, captured.out, captured.err)

    return call


def read_expression(path: Path) -> NDArray[np.float32]:
    """Expression of every spot and gene in a prediction."""
    return np.asarray(anndata.read_h5ad(path).X, np.float32)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_prediction(found: Path, wanted: Path) -> None:
    ours, theirs = anndata.read_h5ad(found), anndata.read_h5ad(wanted)
    assert list(ours.var_names) == list(theirs.var_names)
    assert list(ours.obs_names) == list(theirs.obs_names)
    np.testing.assert_array_equal(ours.obsm["spatial"], theirs.obsm["spatial"])
    np.testing.assert_allclose(np.asarray(ours.X), np.asarray(theirs.X), rtol=0, atol=ATOL)


def assert_same_metrics(found: Path, wanted: Path) -> None:
    ours, theirs = read_json(found), read_json(wanted)
    for key in ("fold", "fitted_on", "selected_on", "tested_on", "genes"):
        assert ours[key] == theirs[key], key
    assert (ours["selection"], theirs["selection"]) == ("validation", "honest")  # renamed
    assert (ours["best_epoch"], ours["epochs"]) == (theirs["best_epoch"], theirs["epochs"])
    for predictor in ("model", "constant"):
        for score in ("mse", "mae"):
            wanted_score = pytest.approx(theirs[predictor][score], rel=METRICS_RTOL)
            assert ours[predictor][score] == wanted_score, (predictor, score)


def test_old_numbers_differ_between_spots(old: Path) -> None:
    """Else equal numbers would prove nothing."""
    for family in FAMILIES:
        expression = read_expression(old / family / "predictions" / "slide.h5ad")
        assert expression.shape == (20, 5)
        assert np.ptp(expression, axis=0).min() > 100 * ATOL


@pytest.mark.parametrize("family", FAMILIES)
def test_bundle_predicts_the_same_numbers(old: Path, family: str) -> None:
    bundle = load_bundle(old / family / "bundle")
    with bundle.open(device="cpu", backend="onnxruntime") as model:
        prediction = predict_slide(old / "slide.png", model, PredictOptions(mpp=0.5))
    wanted = anndata.read_h5ad(old / family / "predictions" / "slide.h5ad")
    assert list(prediction.genes) == list(wanted.var_names)
    np.testing.assert_allclose(prediction.level0_xy, wanted.obsm["spatial"])
    np.testing.assert_allclose(prediction.expression, np.asarray(wanted.X), rtol=0, atol=ATOL)


@pytest.mark.parametrize("family", FAMILIES)
def test_bundle_is_whole_and_replays_what_pytorch_gave(
    invoke: Invoke, old: Path, family: str
) -> None:
    finished = invoke("verify", old / family / "bundle", "--json")
    assert finished.status == 0, finished.err
    assert json.loads(finished.out)["passed"]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[pytest.mark.slow] if family == "triplex" else [])
        for family in FAMILIES
    ],
)
def test_checkpoint_exports_to_the_same_numbers(
    invoke: Invoke, old: Path, tmp_path: Path, family: str
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    exported = invoke("export", old / family / "model.ckpt", "--out", bundle)
    assert exported.status == 0, exported.err
    predicted = invoke(
        "predict",
        old / "slide.png",
        "--bundle",
        bundle,
        "--out",
        out,
        "--mpp",
        0.5,
        *SAME_RUNTIME,
        "--no-report",
    )
    shutil.rmtree(bundle)
    assert predicted.status == 0, predicted.err
    assert_same_prediction(out / "slide.h5ad", old / family / "predictions" / "slide.h5ad")


def test_cache_of_tile_features_may_miss_and_is_never_wrong(
    invoke: Invoke, old: Path, tmp_path: Path
) -> None:
    """An old bundle lacks the digest of the encoder's content, by which the cache was named."""
    shutil.copytree(old / "cache", tmp_path / "cache")
    finished = invoke(
        "predict",
        old / "slide.png",
        "--bundle",
        old / "triplex" / "bundle",
        "--mpp",
        0.5,
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        *SAME_RUNTIME,
    )
    assert finished.status == 0, finished.err
    wanted = old / "triplex" / "predictions"
    facts, before = (read_json(folder / "slide.json") for folder in (tmp_path / "out", wanted))
    assert before["tiles_encoded"] > 0
    assert facts["tiles_encoded"] + facts["tiles_from_cache"] == before["tiles_encoded"]
    assert facts["bundle_id"] == before["bundle_id"]
    assert_same_prediction(tmp_path / "out" / "slide.h5ad", wanted / "slide.h5ad")


def test_slide_predicted_again_into_the_old_folder(
    invoke: Invoke, old: Path, tmp_path: Path
) -> None:
    wanted, out = old / "his_to_gene" / "predictions", tmp_path / "out"
    shutil.copytree(wanted, out)
    finished = invoke(
        "predict",
        old / "slide.png",
        "--bundle",
        old / "his_to_gene" / "bundle",
        "--out",
        out,
        "--mpp",
        0.5,
        *SAME_RUNTIME,
    )
    assert finished.status == 0, finished.err
    assert_same_prediction(out / "slide.h5ad", wanted / "slide.h5ad")
    assert (out / "slide.html").is_file()


def test_prediction_is_reported_and_converted(invoke: Invoke, old: Path, tmp_path: Path) -> None:
    table = old / "triplex" / "predictions" / "slide.h5ad"
    page = tmp_path / "page.html"
    finished = invoke("report", table, "--out", page)
    assert finished.status == 0, finished.err
    assert "GNAS" in page.read_text(encoding="utf-8")
    for wanted in ("csv", "geojson", "ome-tiff"):
        converted = invoke("convert", table, "--to", wanted, "--out", tmp_path / f"to.{wanted}")
        assert converted.status == 0, converted.err
    written = pd.read_csv(tmp_path / "to.csv")[list(anndata.read_h5ad(table).var_names)]
    np.testing.assert_allclose(written, read_expression(table), rtol=0, atol=ATOL)


def test_folder_of_predictions_gets_an_index(invoke: Invoke, old: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(old / "triplex" / "predictions", tmp_path / "predictions")
    finished = invoke("report", folder, "--json")
    assert finished.status == 0, finished.err
    assert json.loads(finished.out)["slides"] == ["slide"]


def test_data_set_is_prepared_as_before(invoke: Invoke, old: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    finished = invoke(
        "prepare",
        old / "st",
        "--format",
        "st",
        "--out",
        out,
        "--genes",
        3,
        "--tile-encoder",
        old / "means.onnx",
        "--backend",
        "onnxruntime",  # what 0.1.0 ran
    )
    assert finished.status == 0, finished.err
    ours, theirs = (read_json(folder / "prepared.json") for folder in (out, old / "prepared"))
    for key in ("schema", "tile", "label_transform", "genes", "folds"):
        assert ours[key] == theirs[key], key
    for name in ("A1", "B1", "C1"):
        found, wanted = (
            np.load(folder / "sections" / name / "features.npy")
            for folder in (out, old / "prepared")
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)


def test_training_on_the_prepared_folder_gives_the_same_metrics(
    invoke: Invoke, old: Path, tmp_path: Path
) -> None:
    finished = invoke(
        "train",
        old / "prepared",
        "--config",
        old / "train.yaml",
        "--out",
        tmp_path / "run",
        "--fold",
        1,
    )
    assert finished.status == 0, finished.err
    parts = ("fold-1", "metrics.json")
    assert_same_metrics(tmp_path.joinpath("run", *parts), old.joinpath("run", *parts))


def test_training_that_was_cut_off_goes_on(invoke: Invoke, old: Path, tmp_path: Path) -> None:
    run = shutil.copytree(old / "cut-off", tmp_path / "run")
    finished = invoke(
        "train",
        old / "prepared",
        "--config",
        old / "train.yaml",
        "--out",
        run,
        "--resume",
    )
    assert finished.status == 0, finished.err
    assert len((run / "fold-0" / "history.csv").read_text().splitlines()) == 1 + 2
    parts = ("fold-0", "metrics.json")
    assert_same_metrics(run.joinpath(*parts), old.joinpath("run", *parts))


def test_run_is_evaluated_as_before(invoke: Invoke, old: Path) -> None:
    finished = invoke("evaluate", old / "run", "--json")
    assert finished.status == 0, finished.err
    ours, theirs = json.loads(finished.out), read_json(old / "run-scores.json")
    assert ours["folds"] == theirs["folds"]
    for predictor in ("model", "constant"):
        for score in ("mse", "mae"):
            assert ours[predictor][score] == pytest.approx(theirs[predictor][score])


def test_cells_of_a_study_count_as_done(invoke: Invoke, old: Path, tmp_path: Path) -> None:
    out = shutil.copytree(old / "study", tmp_path / "study")
    finished = invoke(
        "study",
        old / "study.yaml",
        "--out",
        out,
        "--no-train",
        "--no-deploy",
        "--json",
        "--engine",
        "local",
    )
    assert finished.status == 0, finished.err
    ours, theirs = json.loads(finished.out), read_json(old / "study" / "tiny.json")
    assert ours["cells"] == theirs["cells"] == {"all": 4, "done": 4}
    for label in ("GEM", "NEM"):
        found, wanted = (one["datasets"]["ST"]["models"][label]["mse"] for one in (ours, theirs))
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["bench-graphs.json", "bench-slide.json"])
def test_benchmark_compares_with_itself(invoke: Invoke, old: Path, name: str) -> None:
    finished = invoke("bench", "compare", old / name, old / name, "--json")
    assert finished.status == 0, finished.err
    content = json.loads(finished.out)
    assert content["regression"] is False
    assert content["cases"]


@pytest.fixture
def settings(invoke: Invoke, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the old settings file names; the file is the user's own.

    In the working folder, it may no longer name files (see the changelog). ``invoke`` comes first,
    because it sets another folder of settings.
    """
    own = tmp_path / "own" / "triplex-deploy" / "config.toml"
    own.parent.mkdir(parents=True)
    shutil.copy(old / "triplex-deploy.toml", own)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    folder = tmp_path / "working"
    folder.mkdir()
    for name in ("train.yaml", "slide.png"):
        shutil.copy(old / name, folder)
    for name in ("triplex", "prepared"):
        (folder / name).symlink_to(old / name)
    monkeypatch.chdir(folder)
    return folder


def test_settings_of_predict_are_understood(invoke: Invoke, old: Path, settings: Path) -> None:
    finished = invoke("predict", "slide.png", "--backend", "onnxruntime")
    assert finished.status == 0, finished.err
    written = anndata.read_h5ad(settings / "from settings" / "slide.h5ad")
    assert list(written.var_names) == ["FASN", "GNAS"]
    wanted = anndata.read_h5ad(old / "triplex" / "predictions" / "slide.h5ad")
    chosen = np.asarray(wanted[:, ["FASN", "GNAS"]].X)
    np.testing.assert_allclose(np.asarray(written.X), chosen, rtol=0, atol=ATOL)
    assert not (settings / "from settings" / "slide.html").exists()


def test_settings_of_train_are_understood(invoke: Invoke, settings: Path) -> None:
    finished = invoke("train", "prepared", "--out", "run", "--epochs", 1)
    assert finished.status == 0, finished.err
    assert (
        read_json(settings / "run" / "fold-1" / "metrics.json")["selection"] == "validation"
    )  # was "honest"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("command", ["prepare", "study", "bench", "export"])
def test_settings_of_other_commands_are_understood(invoke: Invoke, command: str) -> None:
    """A key that is not known ends with 1; here an argument is missing, which ends with 2."""
    finished = invoke(command)
    assert finished.status == 2
    assert "config.toml" not in finished.err


@pytest.mark.usefixtures("settings")
def test_environment_is_read(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPLEX_DEPLOY_PREDICT_ENGINE", "nowhere")
    finished = invoke("predict", "slide.png")
    assert finished.status == 2
    assert "nowhere" in finished.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_still_taken(
    invoke: Invoke, interface: dict[str, Any], command: str
) -> None:
    assert set(interface["options"]) == set(COMMANDS)
    arguments = []
    for option in interface["options"][command]:
        arguments += [option["option"], *["1"] * option["values"]]
    finished = invoke(*command.split(), "--help", *arguments)  # names are read before help answers
    assert finished.status == 0, finished.err
    assert invoke(*command.split(), "--help", "--no-such-option").status == 2


def test_public_names_and_options_are_still_there(interface: dict[str, Any]) -> None:
    for name in interface["public"]:
        assert hasattr(triplex_deploy, name), name
    options = PredictOptions(**interface["predict_options"])
    assert options == PredictOptions()
