"""Define the cells of a study: each is one training, in a folder that records its state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract import CONFIGS, Config, Neighborhood
from triplex_deploy.contract.config import RENAMED
from triplex_deploy.contract.neighborhood import KIND_KEY
from triplex_deploy.data import Fold
from triplex_deploy.errors import ConfigError
from triplex_deploy.study.config import FIXED, DatasetEntry, Study, require_known, slug
from triplex_deploy.training.options import (
    OLD_OPTIONS,
    OLD_SELECTIONS,
    TrainOptions,
    current_keys,
    split_settings,
)
from triplex_deploy.training.prepared import (
    PREPARED_FILE,
    Prepared,
    open_prepared,
    with_data_settings,
)

CELLS_DIR: Final = "cells"
"""Folder of all cells, below the study's folder."""
CELL_FILE: Final = "cell.json"
"""Record of a cell: its settings, their digest, and the seconds of training."""
METRICS_FILE: Final = "metrics.json"
CHECKPOINT_FILE: Final = "checkpoint.ckpt"


@dataclass(frozen=True)
class StudyCell:
    """One training of a study: a model on a fold of a data set with a seed."""

    dataset: str
    """Label of the data set."""
    model: str
    """Label of the model."""
    fold: int
    """Number of the fold, counted from 0."""
    seed: int
    """Seed of the training."""
    prepared: Path
    """Folder of the prepared data."""
    folder: Path
    """Folder of the training's files."""
    config: Config
    """Configuration of the model."""
    options: TrainOptions
    """Options of the training."""
    digest: str
    """SHA-256 of all that the result depends on: settings, fold and prepared data."""

    @property
    def key(self) -> str:
        """Name of the cell in messages."""
        return f"{self.dataset} / {self.model} / fold {self.fold} / seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        """File of the trained model."""
        return self.folder / CHECKPOINT_FILE

    def settings(self) -> dict[str, Any]:
        """Return the settings of model and training, with all defaults."""
        return {**self.config.to_dict(), **self.options.to_dict()}


def make_cells(study: Study, out: Path) -> tuple[StudyCell, ...]:
    """Return all cells, seed by seed, so that an interrupted study has complete rows first.

    Args:
        study: The study.
        out: Folder of the study's results.

    Raises:
        DatasetError: If a data set is not prepared.
        ConfigError: If a setting or a fold is not valid.
    """
    config = study.config
    opened = {label: open_folders(study, dataset) for label, dataset in config.datasets.items()}
    return tuple(
        _make_cell(study, out, label, opened[label], fold, model, seed)
        for seed in config.seeds
        for label in config.datasets
        for fold in folds_of(study, label, opened[label][0])
        for model in config.models
    )


def open_folders(study: Study, dataset: DatasetEntry) -> tuple[Prepared, ...]:
    """Return the prepared folders of a data set: ``prepared``, then ``also_prepared``.

    Raises:
        DatasetError: If a folder is not prepared.
    """
    names = (dataset.prepared, *dataset.also_prepared)
    return tuple(open_prepared(study.path(name)) for name in names)


def folder_of_model(folders: Sequence[Prepared], values: Mapping[str, Any], where: str) -> Prepared:
    """Return the folder that a model is trained on.

    Args:
        folders: The folders of the data set, from ``open_folders``.
        values: The model's settings.
        where: Data set and model, for messages.

    Raises:
        ConfigError: If no folder has the neighborhood that the settings name.
    """
    if KIND_KEY not in values:
        return folders[0]
    wanted = Neighborhood.of_record(values)
    for folder in folders:
        if folder.neighborhood == wanted:
            return folder
    raise ConfigError(
        f"{where}: no folder was prepared with the neighborhood {wanted}; add one to also_prepared"
    )


def settings_of(study: Study, dataset: DatasetEntry, model: str) -> dict[str, Any]:
    """Return the settings of a model on a data set.

    Settings of the model replace those of all models, and are replaced by those of the data set.

    Raises:
        ConfigError: If a setting is not known, or must be the same for all models.
    """
    config = study.config
    layers = (config.settings, config.models[model], dataset.settings.get(model, {}))
    values = {key: value for layer in layers for key, value in current_keys(layer).items()}
    fixed = [key for key in FIXED if key in values]
    if fixed:
        raise ConfigError(
            f"{model}: {fixed[0]} is the same for all models; leave it out of settings"
        )
    kind = CONFIGS.get(str(values.get("model", "triplex")))
    if kind is not None:
        values = kind.current_keys(values)
        known = [field.name for field in (*fields(kind), *fields(TrainOptions))]
        require_known(model, values, known)
    if values.get("backbone_weights"):
        values["backbone_weights"] = str(study.path(values["backbone_weights"]))
    return values


def metrics_of(cell: StudyCell) -> dict[str, Any] | None:
    """Return the metrics of a cell that is finished with exactly these settings, otherwise None."""
    record = read_record(cell.folder)
    if record is None or record.get("digest") != cell.digest:
        return None
    metrics = read_json(cell.folder / METRICS_FILE)
    return metrics if metrics is not None and "model" in metrics else None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a cell, or None if ``folder`` is not the folder of a cell."""
    return read_json(folder / CELL_FILE)


def prepared_digest(path: Path) -> str:
    """Return the SHA-256 of prepared data, which does not depend on where its files are."""
    content = json.loads((path / PREPARED_FILE).read_text(encoding="utf-8"))
    content.pop("source", None)
    content.pop("versions", None)
    for section in content["sections"]:
        section.pop("slide", None)
    return _digest(content)


def _make_cell(
    study: Study,
    out: Path,
    label: str,
    folders: Sequence[Prepared],
    fold: Fold,
    model: str,
    seed: int,
) -> StudyCell:
    values = settings_of(study, study.config.datasets[label], model)
    prepared = folder_of_model(folders, values, f"{label} / {model}")
    values |= {"selection": study.config.selection, "seed": seed}
    config, options = split_settings(with_data_settings(values, prepared))
    content = {
        "config": _with_first_keys(config.digest_values()),
        "options": _with_first_keys(options.digest_values()),
        "fold": asdict(fold),
        "prepared": prepared_digest(prepared.path),
    }
    folder = out / CELLS_DIR / slug(label) / slug(model) / f"fold-{fold.index}" / f"seed-{seed}"
    return StudyCell(
        dataset=label,
        model=model,
        fold=fold.index,
        seed=seed,
        prepared=prepared.path,
        folder=folder,
        config=config,
        options=options,
        digest=_digest(content),
    )


def _with_first_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under their first names, so that digests of earlier versions stay valid."""
    first_keys = {new: old for old, new in {**OLD_OPTIONS, **RENAMED}.items()}
    first = {first_keys.get(key, key): value for key, value in values.items()}
    if "selection" in first:
        first_selections = {new: old for old, new in OLD_SELECTIONS.items()}
        first["selection"] = first_selections[first["selection"]]
    return first


def folds_of(study: Study, label: str, prepared: Prepared) -> Iterator[Fold]:
    """Yield the folds of a data set that the study names.

    Raises:
        ConfigError: If the data set has no such fold.
    """
    wanted = study.config.folds
    if wanted == "all":
        yield from prepared.folds
        return
    for number in wanted:
        if not 0 <= number < len(prepared.folds):
            raise ConfigError(
                f"folds: {label} has no fold {number}; its folds are 0 to {len(prepared.folds) - 1}"
            )
        yield prepared.folds[number]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if the file cannot be read or holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
