"""``triplex-deploy evaluate``: a run over its folds, or a prediction against measured counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, print_summary


@click.command(
    epilog="Example: triplex-deploy evaluate prediction/C5.h5ad --truth C5_counts.h5ad "
    "--out metrics.json"
)
@click.argument("what", metavar="RUN|PREDICTION.h5ad", type=click.Path(path_type=Path))
@click.option("--truth", type=click.Path(path_type=Path), help="Measured counts, for a prediction.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the metrics as JSON and, beside it, a histogram of correlations as PNG.",
)
@common_options
def command(what: Path, truth: Path | None, out: Path | None, as_json: bool) -> None:
    """Score a finished RUN over its folds, or one PREDICTION against --truth.

    The constant predictor stands beside every score. PCC(H) is over the 50 genes this very model
    predicts best on the test folds, as published.
    """
    from triplex_deploy.training.run_files import without_nan

    result = without_nan(_evaluate(what, truth))
    if out is not None:
        _write(out, result)
    print_summary(as_json, result, _lines(result))


def _evaluate(what: Path, truth: Path | None) -> dict[str, Any]:
    from triplex_deploy.training.evaluate import evaluate_prediction, evaluate_run

    if truth is None:
        if what.suffix == ".h5ad":
            raise click.UsageError("a prediction needs --truth")
        return evaluate_run(what)
    from triplex_deploy.outputs.h5ad import read_h5ad

    return evaluate_prediction(read_h5ad(what), truth)


def _write(out: Path, result: dict[str, Any]) -> None:
    from triplex_deploy.outputs.atomic import atomic_path
    from triplex_deploy.training.evaluate import draw_histogram

    with atomic_path(out) as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    pcc = result["model"].get("pcc")
    if pcc is not None:
        draw_histogram(out.with_suffix(".png"), pcc)


def _lines(result: dict[str, Any]) -> list[str]:
    if "folds" not in result:
        model, own = result["model"], result["own_mean"]
        return [
            f"{result['slide']}: {result['spots']} spots, {len(result['genes'])} genes: "
            f"PCC {_number(model['pcc_m'])}, MSE {model['mse']:.4f}, MAE {model['mae']:.4f}; "
            f"its own mean everywhere MSE {own['mse']:.4f}, MAE {own['mae']:.4f}"
        ]
    title = f"{len(result['folds'])} folds, {result['selection']} selection"
    if result["shares_patients"]:
        title += "; test patients are trained on too"
    header = f"{'':<10}{'MSE':>17}{'MAE':>17}{'PCC(M)':>17}{'PCC(H)':>17}"
    return [title, header, *(_row(name, result[name]) for name in ("model", "constant"))]


def _row(name: str, summary: dict[str, Any]) -> str:
    cells = (summary[key] for key in ("mse", "mae", "pcc_m", "pcc_h"))
    return f"{name:<10}" + "".join(
        f"{_number(cell['mean']) + ' +- ' + _number(cell['std']):>17}" for cell in cells
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
