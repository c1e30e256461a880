import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from triplex_deploy.cli.main import run as run_command
from triplex_deploy.errors import OutputError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs.h5ad import write_h5ad
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.evaluate import evaluate_prediction, evaluate_run

RC = np.array([[row, col] for row in range(4) for col in range(5)], np.int64)
GENES = ("GNAS", "FASN", "MUC1")


def prediction(expression: np.ndarray) -> Prediction:
    return Prediction(
        slide_name="slide",
        expression=expression.astype(np.float32),
        genes=GENES,
        level0_xy=RC[:, ::-1] * 100.0,
        grid_rc=RC,
        slide_size_wh=(600, 500),
        slide_mpp=0.5,
        spot_diameter_px=50.0,
        thumbnail=np.zeros((5, 6, 3), np.uint8),
        run={},
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
    result = evaluate_prediction(prediction(labels), truth)
    assert result["spots"] == 20
    assert result["truth_are_counts"]
    assert result["model"]["mse"] == pytest.approx(0, abs=1e-10)
    assert result["model"]["pcc_m"] == pytest.approx(1)
    assert result["own_mean"]["mse"] == pytest.approx(labels.var(axis=0).mean())


def test_command_writes_metrics_and_histogram(
    truth: Path, counts: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "slide.h5ad", tmp_path / "metrics.json"
    write_h5ad(prediction(LabelTransform()(counts, RC)), path)
    assert run_command(["evaluate", str(path), "--truth", str(truth), "--out", str(out)]) == 0
    assert "PCC 1.0000" in capsys.readouterr().out
    assert json.loads(out.read_text())["genes"] == list(GENES)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert run_command(["evaluate", str(path)]) == 2


def write_fold(run: Path, index: int, genes: list[str], pcc: list, selection: str) -> None:
    folder = run / f"fold-{index}"
    folder.mkdir(parents=True)
    constant = {"mse": 2.0, "mae": 1.0, "pcc_m": None, "pcc": [None] * len(genes)}
    model = {"mse": 1.0 + index, "mae": 0.5, "pcc_m": 0.0, "pcc": pcc}
    facts = {"fold": "AB"[index], "selection": selection, "shares_patients": False}
    content = {**facts, "tested_on": ["s"], "genes": genes, "model": model, "constant": constant}
    (folder / "metrics.json").write_text(json.dumps(content))


def test_run_is_summarised_over_folds_by_gene_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fold(tmp_path, 0, ["X", "Y"], [0.4, None], "honest")
    write_fold(tmp_path, 1, ["Y", "Z"], [0.2, 0.6], "honest")
    result = evaluate_run(tmp_path)
    assert result["model"]["mse"] == {"mean": 1.5, "std": 0.5}
    assert result["model"]["pcc_m"]["mean"] == pytest.approx(0.4)
    assert set(result["model"]["top_genes"]) == {"X", "Y", "Z"}
    assert result["constant"]["top_genes"] == []
    assert run_command(["evaluate", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "honest selection" in text
    assert "constant" in text


def test_folds_of_different_selection_are_not_mixed(tmp_path: Path) -> None:
    write_fold(tmp_path, 0, ["X"], [0.4], "honest")
    write_fold(tmp_path, 1, ["X"], [0.4], "paper")
    with pytest.raises(OutputError, match="selection"):
        evaluate_run(tmp_path)
    with pytest.raises(OutputError, match="finished train"):
        evaluate_run(tmp_path / "nowhere")
