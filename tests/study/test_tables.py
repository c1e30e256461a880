"""Tables made of given results."""

from typing import Any

from triplex_deploy.study.tables import make_tables
from triplex_deploy.study.write import markdown_table

KEYS = ("mse", "mae", "pcc_m", "pcc_h")
WITHIN = ("mse_within", "mse_offset")


def spread(mean: float | None, std: float | None = 0.01) -> dict[str, float | None]:
    return {"mean": mean, "std": std}


def metrics(first: float) -> dict[str, dict[str, float | None]]:
    keys = (*KEYS, "pcc_common", *WITHIN)
    return {key: spread(first + i / 10) for i, key in enumerate(keys)}


def model(first: float, **changes: Any) -> dict[str, Any]:
    difference: dict[str, Any] = {
        key: {"mean": -0.25, "std": 0.5, "n": 8} for key in ("mse", "mae")
    }
    difference |= {key: {"mean": 0.125, "std": 0.5, "n": 8} for key in ("pcc_m", "pcc_h")}
    difference |= {key: {"mean": None, "std": None, "n": 0} for key in WITHIN}
    return {
        **metrics(first),
        "cells_done": 8,
        "cells": 8,
        "paper": None,
        "difference": difference,
        "training_s": 61.4,
        "deployed": None,
        **changes,
    }


def results(**models: Any) -> dict[str, Any]:
    dataset = {
        "shares_patients": False,
        "folds": {"0": ["A1"], "1": ["B1"]},
        "constant": {"mse": spread(0.267, 0.082), "mae": spread(0.408, 0.05)},
        "baselines": {},
        "models": models,
    }
    common = {"reference": "TRIPLEX", "seeds": [1, 2], "selection": "test_fold", "external": {}}
    return {**common, "datasets": {"BC1": dataset}}


def test_values_of_the_paper_stand_beside_results_below_the_constant() -> None:
    paper = {"mse": spread(0.228, 0.07), "pcc_m": spread(0.314, None)}
    table = make_tables(results(TRIPLEX=model(0.2, paper=paper), Mine=model(0.3)))[0]
    assert table.title == "BC1: accuracy"
    assert table.header == (
        "model",
        "MSE",
        "MAE",
        "PCC(M)",
        "PCC(H)",
        "MSE within",
        "MSE offset",
        "PCC(50)",
        "paper MSE",
        "paper PCC(M)",
    )
    ours = tuple(f"0.{number}00 ± 0.010" for number in (2, 3, 4, 5, 7, 8, 6))
    assert table.rows[0] == (
        "constant predictor",
        "0.267 ± 0.082",
        "0.408 ± 0.050",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
    )
    assert table.rows[1] == ("TRIPLEX", *ours, "0.228 ± 0.070", "0.314")
    assert table.rows[2][-2:] == ("-", "-")
    assert table.note.startswith("folds 0, 1; seeds 1, 2; test_fold selection; seeds are averaged")


def test_single_fold_has_no_deviation() -> None:
    single = {"mean": 0.25, "std": None, "n": 1}
    done = model(0.2, mse=single, difference=dict.fromkeys((*KEYS, *WITHIN), single))
    scores, differences = make_tables(results(NEM=done))[:2]
    assert scores.rows[1][1] == "0.250"
    assert differences.rows[0][1:] == ("+0.250",) * 6 + ("1",)


def test_unfinished_row_is_marked() -> None:
    table = make_tables(results(NEM=model(0.2, cells_done=3)))[0]
    assert table.rows[1][0] == "NEM (3 of 8 cells)"


def test_reference_has_no_row_of_differences_to_itself() -> None:
    table = make_tables(results(TRIPLEX=model(0.2), NEM=model(0.3)))[1]
    assert table.title == "BC1: paired with TRIPLEX"
    below, above = "-0.250 ± 0.500", "+0.125 ± 0.500"
    assert table.rows == (("NEM", below, below, above, above, "-", "-", "8"),)


def test_cost_is_in_millions_and_megabytes() -> None:
    cost = {
        "parameters": 71_776_958,
        "parameters_in_training": 73_596_333,
        "bundle_mb": 288.44,
        "spots_per_s": 12.34,
        "peak_memory_mb": 1501.6,
    }
    table = make_tables(results(Hist2ST=model(0.2, deployed=cost), NEM=model(0.3)))[2]
    assert table.rows == (
        ("Hist2ST", "71.78", "73.60", "288.4", "12.3", "1502", "61"),
        ("NEM", "-", "-", "-", "-", "-", "61"),
    )


def test_undefined_value_is_a_dash() -> None:
    table = make_tables(results(NEM=model(0.2, pcc_h=spread(None, None))))[0]
    assert table.rows[1][4] == "-"


def test_markdown_has_a_row_per_line() -> None:
    lines = markdown_table(make_tables(results(**{"a|b": model(0.3)}))[1]).splitlines()
    assert lines[0] == "## BC1: paired with TRIPLEX"
    assert lines[-1].startswith("| a\\|b | -0.250 ± 0.500 |")


def test_baselines_stand_between_the_constant_and_the_models() -> None:
    found = results(TRIPLEX=model(0.2))
    found["datasets"]["BC1"]["baselines"] = {"context_ridge": model(0.3)}
    scores, differences = make_tables(found)[:2]
    names = [row[0] for row in scores.rows]
    assert names == ["constant predictor", "context ridge", "TRIPLEX"]
    assert scores.rows[1][1:4] == ("0.300 ± 0.010", "0.400 ± 0.010", "0.500 ± 0.010")
    assert differences.rows[0][:2] == ("context ridge", "-0.250 ± 0.500")
