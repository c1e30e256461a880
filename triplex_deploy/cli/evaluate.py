"""Define ``triplex-deploy evaluate``: score a run over its folds, or a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import genes_option


@click.command(
    epilog="Example: triplex-deploy evaluate prediction/C5.h5ad --truth C5_counts.h5ad "
    "--out metrics.json --genes GNAS,FASN"
)
@click.argument("what", metavar="RUN|PREDICTION.h5ad", type=click.Path(path_type=Path))
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="Measured counts, for a prediction: h5ad, .tsv, or Space Ranger folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the metrics as JSON and, beside it, pictures as PNG.",
)
@genes_option("Genes to map, measured beside predicted.  [default: the 3 best]")
@common_options
def command(
    what: Path, truth: Path | None, out: Path | None, genes: tuple[str, ...] | None, as_json: bool
) -> None:
    """Score a finished RUN over its folds, or one PREDICTION against --truth.

    The scores of the constant predictor are shown too. PCC(H) is over the 50 genes that this model
    predicts best on the test folds, as published. --out METRICS.json also writes METRICS.png, the
    correlations of all genes, and for a prediction METRICS-maps.png.
    """
    from triplex_deploy.training.run_files import without_nan

    if truth is None and what.suffix == ".h5ad":
        raise click.UsageError("a prediction (.h5ad) needs --truth, its measured counts")
    if truth is not None and what.suffix != ".h5ad":
        raise click.UsageError(f"--truth is for one prediction (.h5ad), and {what} is none")
    if genes is not None and (truth is None or out is None):
        raise click.UsageError("--genes chooses the maps of a prediction; give --truth and --out")
    if out is not None:
        _require_own(out)
    if truth is None:
        result, pictures = _of_run(what)
    else:
        result, pictures = _of_prediction(what, truth, genes)
    result = without_nan(result)
    if out is not None:
        _write(out, result, pictures)
    lines = _run_lines(result) if truth is None else _slide_lines(result)
    if out is not None:
        written = [out, _scores_path(out), *([_maps_path(out)] if pictures.maps else [])]
        lines.append(f"written: {', '.join(map(str, written))}")
    print_summary(as_json, result, lines)


@dataclass(frozen=True)
class _Pictures:
    """Draws the pictures beside the metrics."""

    scores: Callable[[Path], None]
    """Draws METRICS.png."""
    maps: Callable[[Path], None] | None = None
    """Draws METRICS-maps.png; None if there is nothing to map."""


def _scores_path(out: Path) -> Path:
    return out.with_suffix(".png")


def _maps_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}-maps.png")


def _require_own(out: Path) -> None:
    """Refuse, before scoring, to replace files that are not of this package."""
    from triplex_deploy.errors import OutputError
    from triplex_deploy.files.atomic import require_target
    from triplex_deploy.files.ours import has_keys, is_our_png, is_ours, require_ours

    if out == _scores_path(out):
        raise OutputError(f"{out}: metrics are JSON, and the picture gets this name; use .json")
    require_target(out)
    is_metrics = has_keys("model", "pcc_m")
    was_ours = is_ours(out, is_metrics)
    require_ours(out, is_metrics, "a file of metrics")
    for picture in (_scores_path(out), _maps_path(out)):
        # pictures of earlier versions have no mark: they stand beside their metrics
        require_ours(picture, lambda head: was_ours or is_our_png(head), "a picture")


def _of_run(run: Path) -> tuple[dict[str, Any], _Pictures]:
    from triplex_deploy.training.evaluate import evaluate_run, fold_correlations

    def draw(path: Path) -> None:
        from triplex_deploy.training.figures import draw_folds, draw_histogram

        folds = fold_correlations(run)
        if len(folds) > 1:
            draw_folds(path, folds)
        else:
            draw_histogram(path, *folds.values())

    return evaluate_run(run), _Pictures(draw)


def _of_prediction(
    path: Path, truth: Path, genes: tuple[str, ...] | None
) -> tuple[dict[str, Any], _Pictures]:
    from triplex_deploy.outputs.h5ad import read_prediction
    from triplex_deploy.training.evaluate import evaluate_prediction
    from triplex_deploy.training.match import choose_genes, match_truth

    prediction = read_prediction(path)
    matched = match_truth(prediction, truth)
    result = evaluate_prediction(matched, prediction.slide_name)
    pcc = result["model"]["pcc"]
    chosen = choose_genes(genes, prediction, matched, pcc)

    def draw_scores(path: Path) -> None:
        from triplex_deploy.training.figures import draw_histogram

        draw_histogram(path, pcc)

    def draw_maps(path: Path) -> None:
        from triplex_deploy.training import figures

        maps = [
            figures.GeneMap(matched.genes[i], matched.labels[:, i], matched.predicted[:, i], pcc[i])
            for i in chosen
        ]
        figures.draw_maps(path, matched.level0_xy, maps, prediction.units)

    return result, _Pictures(draw_scores, draw_maps if chosen else None)


def _write(out: Path, result: dict[str, Any], pictures: _Pictures) -> None:
    """Write the metrics and the pictures beside them, all or none."""
    from triplex_deploy.files.atomic import atomic_paths
    from triplex_deploy.files.ours import is_our_png, remove_ours

    draw_of = {_scores_path(out): pictures.scores}
    if pictures.maps is not None:
        draw_of[_maps_path(out)] = pictures.maps
    with atomic_paths(*draw_of, out) as (*drawn, metrics):
        for draw, path in zip(draw_of.values(), drawn, strict=True):
            draw(path)
        metrics.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if pictures.maps is None:
        remove_ours(_maps_path(out), is_our_png)  # the maps of an earlier evaluation


def _slide_lines(result: dict[str, Any]) -> list[str]:
    model, own = result["model"], result["own_mean"]
    from triplex_deploy.outputs.units import describe_units

    values = "measured values as they are in the file"
    if result["truth_are_counts"]:
        units = describe_units(result["label_transform"])
        values = f"counts as {units} ({result['label_transform_is']})"
    return [
        f"{result['slide']}: {result['spots']} spots, {len(result['genes'])} genes: "
        f"mean PCC {_number(model['pcc_m'])}, MSE {model['mse']:.4f} "
        f"(within {model['mse_within']:.4f}, offset {model['mse_offset']:.4f}), "
        f"MAE {model['mae']:.4f}; "
        f"each gene's measured mean at every spot: MSE {own['mse']:.4f}, MAE {own['mae']:.4f}",
        "within: the error of the pattern; offset: the squared error of each gene's mean",
        f"spots joined by {result['joined_by']}{_alone(result)}",
        f"values: {values}",
    ]


def _alone(result: dict[str, Any]) -> str:
    predicted, measured = (result[f"{side}_without_partner"] for side in ("predicted", "measured"))
    if not predicted and not measured:
        return ""
    return f"; {predicted} predicted and {measured} measured spots have no partner"


def _run_lines(result: dict[str, Any]) -> list[str]:
    from triplex_deploy.training.evaluate import ROWS

    n_folds = len(result["folds"])
    noun = "fold" if n_folds == 1 else "folds"
    title = f"{n_folds} {noun}, {result['selection']} selection"
    if result["shares_patients"]:
        title += "; test patients are trained on too"
    names = ("MSE", "within", "offset", "MAE", "PCC(M)", "PCC(H)")
    header = f"{'':<10}" + "".join(f"{name:>17}" for name in names)
    lines = [title, header, *(_row(name, result[name]) for name in ROWS if name in result)]
    if len(result["folds"]) > 1:
        lines += [_fold_row(fold) for fold in result["per_fold"]]
    return lines


_FOLD_KEYS = ("mse", "mse_within", "mse_offset", "mae", "pcc_m")


def _row(name: str, summary: dict[str, Any]) -> str:
    cells = (summary[key] for key in (*_FOLD_KEYS, "pcc_h"))
    return f"{name:<10}" + "".join(f"{_spread(cell):>17}" for cell in cells)


def _spread(cell: dict[str, float | None]) -> str:
    deviation = "" if cell["std"] is None else f" +- {_number(cell['std'])}"
    return _number(cell["mean"]) + deviation


def _fold_row(fold: dict[str, Any]) -> str:
    cells = "".join(f"{_number(fold[key]):>17}" for key in _FOLD_KEYS)
    return f"{'fold ' + fold['fold']:<10}{cells}   {', '.join(fold['tested_on'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
