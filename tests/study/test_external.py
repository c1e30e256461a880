"""Models tested on sections of another data set: matching, labels and the ensemble."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.study.conftest import study_values, write_study
from triplex_deploy.cli.main import run as run_command
from triplex_deploy.errors import DatasetError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.study.external import SectionPrediction, score_sample
from triplex_deploy.training.prepared import PreparedSection, open_prepared

PLAIN = LabelTransform(scale=10.0, log="none", smoothing="none")


@pytest.fixture(scope="module")
def section(prepared_path: Path) -> PreparedSection:
    """Six spots with counts of GNAS and FASN that are easy to divide."""
    from scipy.sparse import csr_array

    section = open_prepared(prepared_path).sections["A1"]
    counts = csr_array(np.array([[1, 3], [2, 2], [3, 1], [4, 0], [0, 4], [1, 1]], float))
    return replace(
        section, measured=replace(section.measured, counts=counts, genes=("GNAS", "FASN"))
    )


LABELS = np.array([[2.5, 7.5], [5, 5], [7.5, 2.5], [10, 0], [0, 10], [5, 5]], np.float32)
"""Ten times the fraction of each gene's counts; genes that are not measured do not count."""


def test_labels_are_divided_over_the_matched_genes_only(section: PreparedSection) -> None:
    absent = np.full((6, 1), 9.0, np.float32)
    exact = SectionPrediction(
        ("GNAS", "KRT5", "FASN"), np.hstack([LABELS[:, :1], absent, LABELS[:, 1:]])
    )
    found = score_sample(section, PLAIN, [exact], {"GNAS": 2.0, "KRT5": 3.0, "FASN": 1.0})
    assert found["matched"] == 2
    assert found["ensemble"]["mse"] == pytest.approx(0, abs=1e-10)
    assert found["ensemble"]["pcc_m"] == pytest.approx(1)


def test_ensemble_is_the_mean_of_predictions_and_folds_the_mean_of_errors(
    section: PreparedSection,
) -> None:
    above, below = (SectionPrediction(("GNAS", "FASN"), LABELS + shift) for shift in (1, -3))
    found = score_sample(section, PLAIN, [above, below], {"GNAS": 2.0, "FASN": 1.0})
    assert found["folds"]["mse"] == {"mean": pytest.approx(5), "std": pytest.approx(4)}
    assert found["ensemble"]["mse"] == pytest.approx(1)
    assert found["models"] == 2


def test_highly_predictive_genes_are_the_best_ranked_of_the_matched(
    section: PreparedSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.study.external.N_TOP_GENES", 1)
    wrong_gnas = SectionPrediction(("GNAS", "FASN", "KRT5"), np.hstack([-LABELS[:, :1], LABELS]))
    predicted = replace(wrong_gnas, expression=wrong_gnas.expression[:, [0, 2, 1]])
    best_fasn = {"GNAS": 1.0, "FASN": 2.0, "KRT5": 3.0}
    assert score_sample(section, PLAIN, [predicted], best_fasn)["ensemble"]["pcc_h"] == (
        pytest.approx(1)
    )
    best_gnas = {"GNAS": 2.0, "FASN": 1.0, "KRT5": 3.0}
    assert score_sample(section, PLAIN, [predicted], best_gnas)["ensemble"]["pcc_h"] == (
        pytest.approx(-1)
    )


def test_models_that_share_no_gene_with_a_section_are_refused(section: PreparedSection) -> None:
    with pytest.raises(DatasetError, match="A1: has no gene in common"):
        score_sample(section, PLAIN, [SectionPrediction(("KRT5",), LABELS[:, :1])], {})


def test_external_sections_have_a_table_with_the_papers_column(
    prepared_path: Path, elsewhere_path: Path, tmp_path: Path
) -> None:
    external = {
        "Other": {
            "prepared": str(elsewhere_path),
            "trained_on": "ST",
            "models": ["TRIPLEX"],
            "samples": {"E1": "10X Visium-1"},
        }
    }
    values = study_values(prepared_path, external=external, folds=[0], reference=None)
    values["models"] = {"TRIPLEX": values["models"]["GEM"], "NEM": values["models"]["NEM"]}
    path = write_study(tmp_path, values)
    arguments = ["study", str(path), "--out", str(tmp_path / "out"), "--no-deploy"]
    assert run_command(arguments) == 0
    results = json.loads((tmp_path / "out/tiny.json").read_text())
    samples = results["external"]["Other"]["samples"]
    assert set(samples) == {"D1", "E1"}
    assert set(samples["E1"]["models"]) == {"TRIPLEX"}
    assert samples["E1"]["models"]["TRIPLEX"]["paper"]["mse"]["mean"] == 0.351
    assert samples["D1"]["models"]["TRIPLEX"]["paper"] is None
    table = (tmp_path / "out/tables/tiny-Other-E1.csv").read_text().splitlines()
    assert table[0].endswith("paper MSE,paper MAE,paper PCC(M),paper PCC(H)")
    assert table[1].endswith("0.351,0.464,0.136,0.241")
