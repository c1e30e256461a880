"""Train models on a prepared data set, as ``triplex-deploy train`` does."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triplex_deploy.errors import ConfigError
from triplex_deploy.progress import shown

if TYPE_CHECKING:
    from triplex_deploy.training.prepared import Prepared


@dataclass(frozen=True, repr=False)
class TrainedFold:
    """A finished training."""

    folder: Path
    """Folder of its files."""
    metrics: dict[str, Any]
    """Settings, sections and scores on the test sections: the content of ``metrics.json``."""

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint, for ``export``."""
        return self.folder / "checkpoint.ckpt"

    def __repr__(self) -> str:
        model = self.metrics["model"]
        known = isinstance(model["pcc_m"], float) and isfinite(model["pcc_m"])
        pcc = f"{model['pcc_m']:.3f}" if known else "undefined"
        tested_on = ", ".join(self.metrics["tested_on"])
        return f"<TrainedFold in {self.folder}: PCC {pcc}, MSE {model['mse']:.4f} on {tested_on}>"


def train(
    prepared: Prepared | str | Path,
    out: str | Path,
    *,
    fold: int | None = 0,
    config: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **settings: Any,
) -> list[TrainedFold]:
    """Train a model and score its best epoch on the test sections of the fold.

    Args:
        prepared: What ``prepare`` returned, or its folder.
        out: Folder to write; each fold has a folder of its own in it.
        fold: Number of the fold, None for all folds.
        config: JSON or YAML file of settings.
        resume: Go on with a training that was interrupted.
        progress: Print every finished epoch on stderr.
        settings: Settings of the model and the training, such as ``model="triplex"``,
            ``epochs=50`` or ``learning_rate=3e-4``; they replace those of ``config``.

    Returns:
        One result for each fold.

    Raises:
        ConfigError: If a setting or the fold is unknown or does not fit.
        OutputError: If ``out`` holds a run and ``resume`` is False, or cannot be written.
    """
    from triplex_deploy.training.options import read_settings, split_settings
    from triplex_deploy.training.prepared import Prepared, open_prepared, with_data_settings
    from triplex_deploy.training.train import train_fold

    opened = prepared if isinstance(prepared, Prepared) else open_prepared(Path(prepared))
    if fold is not None and not 0 <= fold < len(opened.folds):
        raise ConfigError(f"fold {fold}: there are folds 0 to {len(opened.folds) - 1}")
    values = {**read_settings(None if config is None else Path(config), ()), **settings}
    model_config, options = split_settings(with_data_settings(values, opened))
    results = []
    for chosen in opened.folds if fold is None else (opened.folds[fold],):
        folder = Path(out) / f"fold-{chosen.index}"
        line = shown(progress, f"fold {chosen.index}")
        metrics = train_fold(opened, chosen, folder, model_config, options, line, resume)
        results.append(TrainedFold(folder, metrics))
    return results
