"""Compare what the models learn from real sections with predictors that need no network.

    python benchmarks/bench_training.py --work build/her2st --json result.json

The models train on sections C2, C3 and C4 of the HER2+ breast cancer data set and predict C5. All
sections are of the same patient, so this says nothing about new patients. TRIPLEX and its three
parts are compared with the constant predictor and with ridge regression on the same frozen
features, with and without the mean over the 5x5 surrounding spots. A model with a seed is trained
once; a finished training is read and not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from triplex_deploy.bench.machine import read_machine
from triplex_deploy.cli.progress import StageBars
from triplex_deploy.contract import ModelConfig
from triplex_deploy.data import Fold
from triplex_deploy.expression import FoldMetrics, constant_predictor, measure_fold, measure_slide
from triplex_deploy.system import installed_versions
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared, PreparedSection
from triplex_deploy.training.run_files import METRICS, without_nan
from triplex_deploy.training.train import train_fold

DATA: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st"
PACKAGES: Final = ("triplex-deploy", "numpy", "torch", "lightning", "scipy", "openslide-python")
TEST_SECTION: Final = "C5"
MODELS: Final = ("triplex", "tem", "nem", "gem")
PENALTY: Final = 10_000.0
"""Penalty of the ridge regressions, which was chosen before the first run."""
CONTEXT: Final = 2
"""Array steps in each direction that the context ridge averages features over."""

OPTIONS: Final = TrainOptions(
    selection="validation",
    refit=True,
    epochs=30,
    patience=6,
    ema_decay=0.95,
    feature_dropout=0.4,
    augment=False,
    backbone_lr_scale=0.0,
    precision="bf16-mixed",
)
"""Options that differ from the paper's recipe. The epoch is chosen on a training section."""


def main() -> None:
    arguments = _parse()
    options = replace(OPTIONS, epochs=arguments.epochs)
    prepare = PrepareOptions(
        layout="st",
        tile_encoder=Path(arguments.tile_encoder),
        folds="sections",
        native_pixels=True,
    )
    with StageBars() as progress:
        prepared = prepare_dataset(arguments.data, arguments.work / "prepared", prepare, progress)
    fold = next(fold for fold in prepared.folds if fold.test == (TEST_SECTION,))
    floors = _floors(prepared, fold)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.models}
    for seed in range(arguments.seeds):
        for name in arguments.models:
            folder = arguments.work / f"{name}-seed{seed}"
            runs[name].append(_cell(prepared, fold, folder, name, replace(options, seed=seed)))
    rows = floors | {name: _summary(results) for name, results in runs.items()}
    _print(rows)
    content = {
        "schema": 1,
        "machine": read_machine().model_dump(),
        "versions": installed_versions(PACKAGES),
        "command": shlex.join(["python", *sys.argv]),
        "task": f"{', '.join(fold.train)} -> {TEST_SECTION}, one patient",
        "tile_encoder": dict(prepared.tile_encoder),
        "options": asdict(options),
        "rows": rows,
        "runs": runs,
    }
    if arguments.json is not None:
        text = json.dumps(without_nan(content), indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder in her2st's layout.")
    parser.add_argument("--work", type=Path, required=True, help="Folder for features and runs.")
    parser.add_argument("--tile-encoder", default="efficientnet_lite0")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=OPTIONS.epochs)
    parser.add_argument("--json", type=Path, help="Write the result here.")
    return parser.parse_args()


def _cell(
    prepared: Prepared, fold: Fold, folder: Path, name: str, options: TrainOptions
) -> dict[str, Any]:
    """Train a model with a seed, or read what an earlier run of it measured."""
    if not (folder / METRICS).is_file():
        config = ModelConfig(
            model=name,
            n_genes=prepared.n_genes,
            feature_dim=prepared.feature_dim,
            target_backbone=str(prepared.tile_encoder["kind"]),
        )
        with StageBars() as progress:
            train_fold(prepared, fold, folder, config, options, progress, resume=folder.is_dir())
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    model = metrics["model"]
    return {
        "seed": options.seed,
        "pcc_m": model["pcc_m"],
        "mse": model["mse"],
        "mae": model["mae"],
        "epochs": metrics["epochs"],
        "selected_on": metrics["selected_on"],
    }


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean and sample standard deviation over seeds."""
    summary: dict[str, float] = {"runs": len(runs)}
    for key in ("pcc_m", "mse", "mae"):
        values = [float(run[key]) for run in runs]
        summary[key] = statistics.fmean(values)
        summary[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return summary


def _floors(prepared: Prepared, fold: Fold) -> dict[str, dict[str, float]]:
    """Score the constant predictor and two ridge regressions on the same labels and spots."""
    panel = prepared.panel(fold, OPTIONS.selection)
    train = [prepared.sections[name] for name in fold.train]
    test = prepared.sections[TEST_SECTION]
    labels = [section.labels(panel, prepared.label_transform) for section in train]
    truth = test.labels(panel, prepared.label_transform)
    constant = np.broadcast_to(constant_predictor(labels), truth.shape)
    rows = {"constant predictor": _score(truth, constant)}
    for name, describe in (("tile ridge", _own), ("context ridge", _with_context)):
        predicted = ridge(
            np.vstack([describe(section) for section in train]), np.vstack(labels), describe(test)
        )
        rows[name] = _score(truth, predicted)
    return rows


def ridge(
    features: NDArray[np.float64], labels: NDArray[np.float32], query: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return predictions (N, G) of a ridge regression on standardized features (S, F)."""
    mean, scale = features.mean(0), features.std(0) + 1e-6
    known = (features - mean) / scale
    center = labels.mean(0)
    kernel = known @ known.T + PENALTY * np.eye(len(known))
    weights = np.linalg.solve(kernel, labels - center)
    predicted: NDArray[np.float64] = (query - mean) / scale @ (known.T @ weights) + center
    return predicted


def _own(section: PreparedSection) -> NDArray[np.float64]:
    return section.spot_features().astype(np.float64)


def _with_context(section: PreparedSection) -> NDArray[np.float64]:
    """Return features (N, F) of spots, and their mean over spots up to ``CONTEXT`` steps away."""
    own, grid = _own(section), section.measured.grid_rc
    around = [own[(abs(grid - place).max(1) <= CONTEXT)].mean(0) for place in grid]
    return np.hstack([own, np.stack(around)])


def _score(truth: NDArray[np.float32], predicted: NDArray[Any]) -> dict[str, float]:
    fold: FoldMetrics = measure_fold([measure_slide(truth, predicted.astype(np.float32))])
    return {"runs": 1, "pcc_m": fold.pcc_m, "mse": fold.mse, "mae": fold.mae}


def _print(rows: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{'':<20}{'PCC(M)':>18}{'MSE':>18}{'MAE':>18}")
    for name, row in rows.items():
        keys = ("pcc_m", "mse", "mae")
        cells = [f"{row[key]:.4f} +- {row.get(f'{key}_std', 0):.4f}" for key in keys]
        print(f"{name:<20}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
