import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from triplex_deploy.cli.main import run as run_command
from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs.h5ad import write_h5ad
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.evaluate import evaluate_prediction, evaluate_run
from triplex_deploy.training.figures import GeneMap, draw_maps
from triplex_deploy.training.match import choose_genes, match_truth

RC = np.array([[row, col] for row in range(4) for col in range(5)], np.int64)
GENES = ("GNAS", "FASN", "MUC1")


def prediction(expression: np.ndarray, run: dict | None = None) -> Prediction:
    return Prediction(
        slide_name="slide",
        expression=expression.astype(np.float32),
        genes=GENES,
        level0_xy=RC[:, ::-1].astype(np.float64) * 100,
        grid_rc=RC,
        slide_size_wh=(600, 500),
        slide_mpp=0.5,
        spot_diameter_px=50.0,
        thumbnail=np.zeros((5, 6, 3), np.uint8),
        run=run or {},
    )


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(5, (20, 3)).astype(np.float32)


@pytest.fixture
def truth(tmp_path: Path, counts: np.ndarray) -> Path:
    """The counts, their spots in another order and their genes too."""
    order = np.random.default_rng(1).permutation(20)
    obs = pd.DataFrame(
        {"array_row": RC[order, 0], "array_col": RC[order, 1]},
        index=[f"barcode{i}" for i in order],
    )
    table = anndata.AnnData(counts[order][:, ::-1].copy(), obs, pd.DataFrame(index=GENES[::-1]))
    table.write_h5ad(tmp_path / "truth.h5ad")
    return tmp_path / "truth.h5ad"


def test_prediction_of_the_labels_themselves_is_perfect(truth: Path, counts: np.ndarray) -> None:
    labels = LabelTransform()(counts, RC)
    result = evaluate_prediction(match_truth(prediction(labels), truth), "slide")
    assert result["spots"] == 20
    assert result["truth_are_counts"]
    assert result["model"]["mse"] == pytest.approx(0, abs=1e-10)
    assert result["model"]["pcc_m"] == pytest.approx(1)
    assert result["own_mean"]["mse"] == pytest.approx(labels.var(axis=0).mean())


def test_labels_are_made_as_the_prediction_records(truth: Path, counts: np.ndarray) -> None:
    recorded = LabelTransform(library="all", log="ln", smoothing="none")
    labels = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 10_000)
    theirs = prediction(labels, {"label_transform": recorded.to_dict()})
    result = evaluate_prediction(match_truth(theirs, truth), "slide")
    assert result["model"]["mse"] == pytest.approx(0, abs=1e-10)
    assert result["label_transform"] == recorded.to_dict()
    assert result["label_transform_is"] == "recorded with the prediction"
    unrecorded = evaluate_prediction(match_truth(prediction(labels), truth), "slide")
    assert unrecorded["model"]["mse"] > 0.1
    assert unrecorded["label_transform_is"].startswith("the paper's")


def test_library_is_of_the_whole_panel_though_one_gene_alone_was_predicted(
    truth: Path, counts: np.ndarray
) -> None:
    labels = LabelTransform()(counts, RC)
    cut = prediction(labels, {"panel": list(GENES)}).select_genes(["FASN"])
    matched = match_truth(cut, truth)
    assert matched.genes == ("FASN",)
    np.testing.assert_allclose(matched.labels, labels[:, [GENES.index("FASN")]], atol=1e-6)


def test_labels_in_the_truth_are_taken_as_they_are(truth: Path, counts: np.ndarray) -> None:
    table = anndata.read_h5ad(truth)
    table.X = table.X + np.float32(0.5)
    table.write_h5ad(truth)
    result = evaluate_prediction(match_truth(prediction(counts + 0.5), truth), "slide")
    assert result["model"]["mse"] == 0
    assert (result["truth_are_counts"], result["label_transform"]) == (False, None)


def test_genes_without_measurements_are_left_out_and_told(
    truth: Path, counts: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    table = anndata.read_h5ad(truth)
    table[:, ["FASN", "GNAS"]].copy().write_h5ad(truth)
    matched = match_truth(prediction(counts), truth)
    assert matched.genes == ("GNAS", "FASN")
    assert "lacks genes of the panel: 1" in caplog.text


def test_genes_to_map_are_the_best_or_those_asked_for(truth: Path, counts: np.ndarray) -> None:
    theirs = prediction(counts)
    matched = match_truth(theirs, truth)
    assert choose_genes(None, theirs, matched, [0.1, float("nan"), 0.7]) == [2, 0]
    assert choose_genes(["FASN", "GNAS"], theirs, matched, [0.1, 0.2, 0.7]) == [1, 0]
    with pytest.raises(ConfigError, match=r"gene FSAN: .* did you mean FASN\?"):
        choose_genes(["FSAN"], theirs, matched, [0.1, 0.2, 0.7])
    fewer = replace(matched, genes=("GNAS",))
    with pytest.raises(ConfigError, match="gene MUC1: predicted, but not in --truth"):
        choose_genes(["MUC1"], theirs, fewer, [0.1])


def test_maps_share_a_scale_and_show_the_spots_as_they_lie(tmp_path: Path) -> None:
    xy = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 300.0]])
    gene_map = GeneMap("GNAS", np.array([0.0, 1.0, 4.0]), np.array([1.0, 1.5, 6.0]), 0.99)
    with patch.object(Figure, "savefig", autospec=True) as saved:
        saved.side_effect = lambda figure, path, **_: Path(path).write_bytes(b"drawn")
        draw_maps(tmp_path / "maps.png", xy, [gene_map])
    measured, predicted = saved.call_args.args[0].axes[:2]
    assert measured.get_title() == "GNAS measured"
    assert predicted.get_title() == "GNAS predicted, PCC 0.99"
    assert measured.yaxis_inverted()
    for axis, values in ((measured, gene_map.measured), (predicted, gene_map.predicted)):
        (spots,) = axis.collections
        assert spots.get_clim() == (0.0, 6.0)
        np.testing.assert_array_equal(spots.get_offsets(), xy)
        np.testing.assert_array_equal(spots.get_array(), values)


def test_command_writes_metrics_and_pictures(
    truth: Path, counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "slide.h5ad", tmp_path / "metrics.json"
    write_h5ad(prediction(LabelTransform()(counts, RC)), path)
    assert run_command(["evaluate", str(path), "--truth", str(truth), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mean PCC 1.0000" in lines[0]
    assert "values: counts as log10(1 + 10,000 × share of " in lines[3]
    pictures = f"{tmp_path / 'metrics.png'}, {tmp_path / 'metrics-maps.png'}"
    assert lines[4] == f"written: {out}, {pictures}"
    assert json.loads(out.read_text())["genes"] == list(GENES)
    for name in ("metrics.png", "metrics-maps.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert run_command(["evaluate", str(path)]) == 2
    assert "needs --truth, its measured counts" in capsys.readouterr().err
    assert run_command(["evaluate", str(tmp_path), "--truth", str(truth)]) == 2
    assert "is for one prediction (.h5ad)" in capsys.readouterr().err
    assert run_command(["evaluate", str(path), "--truth", str(truth), "--genes", "GNAS"]) == 2
    asked = ["evaluate", str(path), "--truth", str(truth), "--out", str(out), "--genes", "GNSA"]
    assert run_command(asked) == 1
    assert "did you mean GNAS?" in capsys.readouterr().err


@pytest.mark.parametrize("failing", ["metrics.png", "metrics-maps.png", "metrics.json"])
def test_metrics_and_pictures_are_written_together_or_not_at_all(
    failing: str,
    truth: Path,
    counts: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "slide.h5ad", tmp_path / "new" / "metrics.json"
    out.parent.mkdir()
    write_h5ad(prediction(LabelTransform()(counts, RC)), path)
    command = ["evaluate", str(path), "--truth", str(truth), "--out", str(out)]
    assert run_command([*command, "--genes", "GNAS"]) == 0
    before = {found.name: found.read_bytes() for found in out.parent.iterdir()}
    rename = Path.replace

    def full(source: Path, target: Path) -> Path:
        if target == out.with_name(failing) and source.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", full)
    capsys.readouterr()
    assert run_command([*command, "--genes", "FASN"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "cannot be written (No space left on device" in line
    assert {found.name: found.read_bytes() for found in out.parent.iterdir()} == before


def test_a_prediction_given_as_truth_is_named(
    counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.h5ad"
    write_h5ad(prediction(LabelTransform()(counts, RC)), path)
    assert run_command(["evaluate", str(path), "--truth", str(path)]) == 0
    assert "slide.h5ad: is a prediction; the figures compare two" in capsys.readouterr().err


def test_maps_of_an_earlier_evaluation_do_not_stay(
    truth: Path, counts: np.ndarray, tmp_path: Path
) -> None:
    path, out = tmp_path / "slide.h5ad", tmp_path / "metrics.json"
    command = ["evaluate", str(path), "--truth", str(truth), "--out", str(out)]
    write_h5ad(prediction(LabelTransform()(counts, RC)), path)
    assert run_command(command) == 0
    assert (tmp_path / "metrics-maps.png").is_file()
    path.unlink()
    write_h5ad(prediction(np.ones((20, 3))), path)  # constant genes have no correlation to rank by
    assert run_command(command) == 0
    assert not (tmp_path / "metrics-maps.png").exists()


@pytest.mark.parametrize("name", ["metrics.png", "file/metrics.json"])
def test_a_place_for_metrics_that_cannot_be_is_refused_before_scoring(
    name: str, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["evaluate", str(tmp_path / "none.h5ad"), "--truth", str(truth)]
    (tmp_path / "file").touch()
    assert run_command([*given, "--out", str(tmp_path / name)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert "none.h5ad" not in line


def write_fold(run: Path, index: int, genes: list[str], pcc: list, selection: str) -> None:
    folder = run / f"fold-{index}"
    folder.mkdir(parents=True)
    constant = {"mse": 2.0, "mae": 1.0, "pcc_m": None, "pcc": [None] * len(genes)}
    model = {"mse": 1.0 + index, "mae": 0.5, "pcc_m": 0.0, "pcc": pcc}
    facts = {"fold": "AB"[index], "selection": selection, "shares_patients": False}
    content = {**facts, "tested_on": ["s"], "genes": genes, "model": model, "constant": constant}
    (folder / "metrics.json").write_text(json.dumps(content))


def test_run_is_summarized_over_folds_by_gene_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fold(tmp_path, 0, ["X", "Y"], [0.4, None], "honest")
    write_fold(tmp_path, 1, ["Y", "Z"], [0.2, 0.6], "honest")
    result = evaluate_run(tmp_path)
    assert result["model"]["mse"] == {"mean": 1.5, "std": 0.5}
    assert result["model"]["pcc_m"]["mean"] == pytest.approx(0.4)
    assert set(result["model"]["top_genes"]) == {"X", "Y", "Z"}
    assert result["constant"]["top_genes"] == []
    assert [fold["mse"] for fold in result["per_fold"]] == [1.0, 2.0]
    out = tmp_path / "summary.json"
    assert run_command(["evaluate", str(tmp_path), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "validation selection" in text
    assert "constant" in text
    assert "fold A 1.0000 - - 0.5000 0.0000 s" in " ".join(text.split())
    assert json.loads(out.read_text())["per_fold"][1]["fold"] == "B"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_folds_of_different_selection_are_not_mixed(tmp_path: Path) -> None:
    write_fold(tmp_path, 0, ["X"], [0.4], "honest")
    write_fold(tmp_path, 1, ["X"], [0.4], "paper")
    with pytest.raises(OutputError, match="selection"):
        evaluate_run(tmp_path)
    with pytest.raises(OutputError, match="no such file or folder"):
        evaluate_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="finished train"):
        evaluate_run(tmp_path / "empty")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mse"', '"mso"'),
        ("1.0", '"a"'),
        ("[", "{"),
        ('"fold": "A"', '"fold": null'),
        ("[0.4]", "[0.4, 0.5]"),
        ('"selection"', '"sel"'),
        ('["s"]', "7"),
    ],
)
def test_damaged_metrics_are_one_error(tmp_path: Path, old: str, new: str) -> None:
    write_fold(tmp_path, 0, ["X"], [0.4], "honest")
    path = tmp_path / "fold-0" / "metrics.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(OutputError, match=r"metrics\.json: damaged"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize("selection", [["validation"], {"a": 1}, None, 3])
def test_selection_that_is_no_name_is_damage(selection: Any, tmp_path: Path) -> None:
    write_fold(tmp_path, 0, ["GNAS"], [0.5], selection)
    with pytest.raises(OutputError, match=r"metrics\.json: damaged"):
        evaluate_run(tmp_path)
