"""Define ``triplex-deploy train``: train models on a prepared data set, one per fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from triplex_deploy.cli.settings import override
from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.cli.shared_options import config_option, model_option, out_option
from triplex_deploy.errors import ConfigError

OPTIONS: Final = "triplex_deploy.training.options:TrainOptions"


@click.command(epilog="Example: triplex-deploy train prepared/ --out run/ --fold 0")
@click.argument("prepared", type=click.Path(path_type=Path))
@out_option("Folder of the run.")
@model_option()
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="Fold number.")
@click.option("--all-folds", is_flag=True, help="Train every fold, one after the other.")
@config_option("JSON or YAML file with settings.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set one key; repeatable."
)
@override(
    OPTIONS,
    "--selection",
    type=click.Choice(["validation", "test_fold", "honest", "paper"]),  # two old names
    metavar="[validation|test_fold]",
    help="Sections that choose the best epoch: a held-out training patient, or the test fold.",
)
@override(OPTIONS, "--epochs", type=click.IntRange(1), help="Maximum number of epochs.")
@override(OPTIONS, "--seed", type=int, help="Seed of weights, order and augmentation.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@common_options
def command(
    prepared: Path,
    out: Path,
    model: str | None,
    fold: int,
    all_folds: bool,
    config: Path | None,
    settings: tuple[str, ...],
    selection: str | None,
    epochs: int | None,
    seed: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a model on PREPARED and score its best epoch on the test sections of the fold.

    The folder of each fold holds checkpoint.ckpt for export, learning curves and metrics.
    """
    from triplex_deploy.cli.progress import StageBars
    from triplex_deploy.training.options import read_settings, split_settings
    from triplex_deploy.training.prepared import open_prepared, with_data_settings
    from triplex_deploy.training.run_files import without_nan
    from triplex_deploy.training.train import train_fold

    opened = open_prepared(prepared)
    if not all_folds and fold >= len(opened.folds):
        raise ConfigError(f"--fold {fold}: there are folds 0 to {len(opened.folds) - 1}")
    given: dict[str, Any] = {
        "model": model,
        "selection": selection,
        "epochs": epochs,
        "seed": seed,
    }
    values = {
        **read_settings(config, settings),
        **{key: value for key, value in given.items() if value is not None},
    }
    model_config, options = split_settings(with_data_settings(values, opened))
    results = []
    for chosen in opened.folds if all_folds else (opened.folds[fold],):
        folder = out / f"fold-{chosen.index}"
        with StageBars() as progress:
            metrics = train_fold(opened, chosen, folder, model_config, options, progress, resume)
        results.append({"run": str(folder), **metrics})
    print_summary(as_json, without_nan({"folds": results}), [_line(result) for result in results])


def _line(result: dict[str, Any]) -> str:
    model, constant = result["model"], result["constant"]
    calibrated = result.get("calibrated")
    after = f", calibrated {calibrated['mse']:.4f}" if calibrated else ""
    shared = "; its patients are trained on too" if result["shares_patients"] else ""
    return (
        f"{result['run']}: test {', '.join(result['tested_on'])} ({result['selection']} selection"
        f"{shared}): PCC {model['pcc_m']:.4f}, MSE {model['mse']:.4f}{after}, "
        f"MAE {model['mae']:.4f}; "
        f"constant predictor MSE {constant['mse']:.4f}, MAE {constant['mae']:.4f}"
    )
