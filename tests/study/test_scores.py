"""Scores of the tables, compared with numbers computed by hand."""

from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.study.paper import paper_row
from triplex_deploy.study.scores import (
    common_top_scores,
    paired_differences,
    score_row,
    summarize,
)

NAN = float("nan")


def run(mse: float, pcc: list[float | None], genes: str = "abc") -> dict[str, Any]:
    """Content of metrics.json of one fold and seed."""
    row = {"mse": mse, "mae": mse / 2, "pcc": pcc}
    return {"genes": list(genes), "tested_on": ["A1"], "model": row, "constant": row}


TWO_FOLDS = {
    0: [run(1.0, [0.1, 0.5, None]), run(3.0, [0.3, 0.7, 0.2])],
    1: [run(4.0, [0.4, 0.2, 0.6])],
}


def test_seeds_are_averaged_within_a_fold_before_folds_are() -> None:
    summary = summarize(score_row(TWO_FOLDS))
    assert summary["mse"] == {"mean": 3.0, "std": 1.0}  # of 2 and 4, not of 1, 3 and 4
    assert summary["mae"] == {"mean": 1.5, "std": 0.5}
    first, second = (0.2 + 0.6 + 0.2) / 3, (0.4 + 0.2 + 0.6) / 3
    assert summary["pcc_m"]["mean"] == pytest.approx((first + second) / 2)
    assert summary["pcc_m"]["std"] == pytest.approx((second - first) / 2)
    assert summary["n_folds"] == 2


def test_highly_predictive_genes_are_those_of_the_best_mean_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("triplex_deploy.study.scores.N_TOP_GENES", 1)
    runs = {0: [run(1.0, [0.1, 0.5, None])], 1: [run(1.0, [0.4, 0.3, 0.2])]}
    scores = score_row(runs)  # ranks: a 2, 3; b 3, 2; c 0 for the NaN, 1
    assert scores.ranked().tolist() == [2.5, 2.5, 0.5]
    assert scores.top().tolist() == [0]
    assert scores.by_fold()["pcc_h"] == {0: 0.1, 1: 0.4}


def test_gene_missing_in_a_fold_counts_in_the_others() -> None:
    scores = score_row({0: [run(1, [0.5, 0.1], "ab")], 1: [run(1, [0.3, 0.7], "bc")]})
    assert scores.genes == ("a", "b", "c")
    np.testing.assert_array_equal(scores.pcc, [[0.5, 0.1, NAN], [NAN, 0.3, 0.7]])
    assert scores.folds[1].pcc_m == pytest.approx(0.5)


def test_differences_are_paired_by_fold() -> None:
    ours = score_row(
        {
            0: [run(2, [0.2, 0.4], "ab")],
            1: [run(5, [0.5, 0.7], "ab")],
            2: [run(9, [0.0, 0.0], "ab")],  # has no partner
        }
    )
    reference = score_row({0: [run(1, [0.1, 0.1], "ab")], 1: [run(2, [0.1, 0.3], "ab")]})
    found = paired_differences(ours, reference)
    assert found["mse"] == {"mean": 2.0, "std": 1.0, "n": 2}  # of 1 and 3
    assert found["pcc_m"]["mean"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["pcc_m"]["std"] == pytest.approx(0.1)


def test_common_genes_are_the_same_for_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triplex_deploy.study.scores.N_TOP_GENES", 1)
    rows = {
        "x": score_row({0: [run(1, [0.9, 0.5, 0.1])]}),  # ranks 3, 2, 1
        "y": score_row({0: [run(1, [0.1, 0.2, 0.3])]}),  # ranks 1, 2, 3
        "z": score_row({0: [run(1, [0.0, 0.6, 0.5])]}),  # ranks 1, 3, 2: b is the best in the mean
    }
    found = common_top_scores(rows)
    assert {label: values["mean"] for label, values in found.items()} == {
        "x": 0.5,
        "y": 0.2,
        "z": 0.6,
    }


def test_values_of_the_paper_are_the_printed_ones() -> None:
    bc1 = paper_row("table1", "BC1", "TRIPLEX")
    assert bc1 is not None
    assert bc1["mse"] == {"mean": 0.228, "std": 0.07}
    assert bc1["pcc_h"] == {"mean": 0.497, "std": 0.17}
    assert "mae" not in bc1
    assert paper_row("table5", "SCC", "Summation") == {
        "mse": {"mean": 0.297, "std": None},
        "mae": {"mean": 0.425, "std": None},
        "pcc_m": {"mean": 0.341, "std": None},
        "pcc_h": {"mean": 0.464, "std": None},
    }
    assert paper_row("table2", "10X Visium-3", "HisToGene") is None
    with pytest.raises(ConfigError, match="table3 has no column BC1; it has SCC"):
        paper_row("table3", "BC1", "TRIPLEX")
