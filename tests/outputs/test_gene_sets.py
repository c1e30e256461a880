"""Gene sets: read from GMT files, and scored as scanpy scores them."""

import gzip
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.gene_sets import n_groups, read_gene_sets, score_genes, with_gene_sets
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.report import render_report, write_report

HYPOXIA = "HYPOXIA\thttp://example.org\tGNAS\tFASN\tUNKNOWN\n"


def expression(n_genes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, rng.random(n_genes) + 0.1, (12, n_genes)).astype(np.float32)


@pytest.mark.parametrize(
    ("n_genes", "n_chosen"), [(12, 3), (40, 5), (250, 20), (3000, 40), (3000, 2)]
)
@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_scanpy(n_genes: int, n_chosen: int) -> None:
    sc = pytest.importorskip("scanpy")
    import anndata

    values = expression(n_genes)
    chosen = np.random.default_rng(1).choice(n_genes, n_chosen, replace=False)
    table = anndata.AnnData(values)
    table.var_names = [f"G{i}" for i in range(n_genes)]
    sc.tl.score_genes(table, [f"G{i}" for i in chosen], n_bins=n_groups(n_genes))
    np.testing.assert_allclose(score_genes(values, chosen), table.obs["score"], atol=2e-6)


def test_groups_are_those_of_scanpy_except_for_few_genes() -> None:
    assert [n_groups(n) for n in (2, 30, 240, 250, 20_000)] == [2, 3, 24, 25, 25]


def test_a_set_that_is_higher_than_its_like_has_a_positive_score() -> None:
    values = np.ones((3, 60), np.float32) + np.linspace(0, 1e-3, 60, dtype=np.float32)
    values[1, :4] += 2
    score = score_genes(values, np.arange(4))
    assert score[1] == pytest.approx(2, abs=0.01)
    assert abs(score[[0, 2]]).max() < 0.01


def test_a_gmt_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text(HYPOXIA + "\nB CELLS\tna\tCD19\tMS4A1\tCD19\t\n")
    wanted = {"HYPOXIA": ("GNAS", "FASN", "UNKNOWN"), "B CELLS": ("CD19", "MS4A1")}
    assert read_gene_sets(path) == wanted
    (tmp_path / "sets.gmt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_gene_sets(tmp_path / "sets.gmt.gz") == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no gene set"),
        ("A\tna\n", "line 1 is no gene set"),
        ("\tna\tGNAS\n", "line 1 is no gene set"),
        ("A na GNAS\n", "line 1 is no gene set"),
        ("A\tna\tGNAS\n\nA\tna\tFASN\n", "line 3: A is there twice"),
        ("".join(f"S{i}\tna\tGNAS\n" for i in range(501)), "501 gene sets; keep those to show"),
    ],
)
def test_a_file_that_is_no_gmt_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "sets.gmt").write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_gene_sets(tmp_path / "sets.gmt")


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.gmt"):
        read_gene_sets(tmp_path / "gone.gmt")
    (tmp_path / "sets.gmt").write_bytes(b"\xff\xfe\x00\xd8\x00")
    with pytest.raises(ConfigError, match=r"sets\.gmt"):
        read_gene_sets(tmp_path / "sets.gmt")


@pytest.fixture
def many_genes(prediction: Prediction) -> Prediction:
    values = np.random.default_rng(2).random((30, 60), np.float32)
    genes = ("GNAS", "FASN", *(f"G{i}" for i in range(58)))
    return replace(prediction, expression=values, genes=genes)


def test_sets_follow_the_genes_and_small_ones_are_named(
    many_genes: Prediction, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {"HYPOXIA": ("GNAS", "FASN", "UNKNOWN"), "OTHER": ("CD19", "GNAS")}
    with caplog.at_level(logging.WARNING):
        extended, n_sets = with_gene_sets(many_genes, sets)
    assert n_sets == 1
    assert extended.genes[-1] == "HYPOXIA (2 of 3 genes)"
    np.testing.assert_array_equal(extended.expression[:, :60], many_genes.expression)
    assert "fewer than 2 of their genes are predicted: OTHER" in caplog.text


def test_sets_of_no_predicted_gene_are_an_error(many_genes: Prediction) -> None:
    with pytest.raises(ConfigError, match=r"none of 1 can be scored: .* such as GNAS, FASN"):
        with_gene_sets(many_genes, {"MOUSE": ("Gnas", "Fasn")})


def test_the_report_shows_scores_like_genes(many_genes: Prediction, tmp_path: Path) -> None:
    sets = {"HYPOXIA": ("GNAS", "FASN")}
    write_report(many_genes, tmp_path / "a.html", ["GNAS"], gene_sets=sets)
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert '"names":["GNAS","HYPOXIA (2 of 2 genes)"]' in html
    assert '"sets":1' in html
    assert "The score of a gene set" in html
    assert "The score of a gene set" not in render_report(many_genes)


def test_sets_are_not_compared_with_measurements(
    prediction: Prediction, measured: Measured, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="gene sets: have no measured values"):
        write_report(prediction, tmp_path / "a.html", None, measured, gene_sets={"A": ("GNAS",)})


def test_a_set_without_genes_to_compare_with_is_left_out(
    prediction: Prediction, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {"ALL": prediction.genes, "TWO": ("GNAS", "FASN")}
    with caplog.at_level(logging.WARNING, "triplex_deploy"):
        extended, n_sets = with_gene_sets(prediction, sets)
    assert (n_sets, extended.genes[-1]) == (1, "TWO (2 of 2 genes)")
    assert "no other genes of like expression are predicted: ALL" in caplog.text
    with pytest.raises(ConfigError, match="none of 1 can be scored"):
        with_gene_sets(prediction, {"ALL": prediction.genes})
