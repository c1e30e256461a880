"""``triplex-deploy train``: a prepared data set becomes checkpoints, one per fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.errors import ConfigError


@click.command(epilog="Example: triplex-deploy train prepared/ --out run/ --fold 0")
@click.argument("prepared", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--model",
    help="triplex, tem, nem, gem, st_net, his_to_gene, hist2st, egn or bleep.  [default: triplex]",
)
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="Fold number.")
@click.option("--all-folds", is_flag=True, help="Train every fold in turn.")
@click.option("--config", type=click.Path(path_type=Path), help="JSON or YAML of settings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one key.")
@click.option(
    "--selection",
    type=click.Choice(["validation", "test_fold", "honest", "paper"]),  # two old names
    metavar="[validation|test_fold]",
    help="Where the best epoch is looked for: a training patient, or the test fold.  "
    "[default: validation]",
)
@click.option("--epochs", type=click.IntRange(1), help="Train at most this long.  [default: 200]")
@click.option("--seed", type=int, help="Of weights, order and augmentation.  [default: 2021]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
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
    """Train on PREPARED and score the best epoch on the fold's test sections.

    Every fold's folder holds checkpoint.ckpt, which exports, with learning curves and metrics.
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
    shared = "; its patients are trained on too" if result["shares_patients"] else ""
    return (
        f"{result['run']}: test {', '.join(result['tested_on'])} ({result['selection']} selection"
        f"{shared}): PCC {model['pcc_m']:.4f}, MSE {model['mse']:.4f}, MAE {model['mae']:.4f}; "
        f"constant predictor MSE {constant['mse']:.4f}, MAE {constant['mae']:.4f}"
    )
