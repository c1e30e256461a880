"""The cells of a study: one training each, in a folder that says whether it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract import CONFIGS, Config
from triplex_deploy.contract.config import RENAMED
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
from triplex_deploy.training.prepared import PREPARED_FILE, Prepared, open_prepared

CELLS: Final = "cells"
CELL: Final = "cell.json"
METRICS: Final = "metrics.json"
CHECKPOINT: Final = "checkpoint.ckpt"


@dataclass(frozen=True)
class StudyCell:
    """One model on one fold of one data set with one seed.

    ``digest`` is of everything its result depends on: settings, fold, and the prepared data.
    """

    dataset: str
    model: str
    fold: int
    seed: int
    prepared: Path
    folder: Path
    config: Config
    options: TrainOptions
    digest: str

    @property
    def key(self) -> str:
        return f"{self.dataset} / {self.model} / fold {self.fold} / seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def settings(self) -> dict[str, Any]:
        """Model and training, every default written out."""
        return {**self.config.to_dict(), **self.options.to_dict()}


def make_cells(study: Study, out: Path) -> tuple[StudyCell, ...]:
    """Every cell, seed by seed, so that a study cut short has whole rows first.

    Raises ``DatasetError`` for what was not prepared and ``ConfigError`` for odd settings.
    """
    config = study.config
    opened = {label: open_prepared(study.path(d.prepared)) for label, d in config.datasets.items()}
    return tuple(
        _make_cell(study, out, label, opened[label], fold, model, seed)
        for seed in config.seeds
        for label, dataset in config.datasets.items()
        for fold in _folds(study, label, opened[label])
        for model in config.models
    )


def settings_of(study: Study, dataset: DatasetEntry, model: str) -> dict[str, Any]:
    """What the study sets for a model on a data set: for all models, for it, for it there."""
    config = study.config
    layers = (config.settings, config.models[model], dataset.settings.get(model, {}))
    values = {key: value for layer in layers for key, value in current_keys(layer).items()}
    fixed = [key for key in FIXED if key in values]
    if fixed:
        raise ConfigError(f"{model}: {fixed[0]} is alike for all models; leave it out of settings")
    kind = CONFIGS.get(str(values.get("model", "triplex")))
    if kind is not None:
        values = kind.current_keys(values)
        known = [field.name for field in (*fields(kind), *fields(TrainOptions))]
        require_known(model, values, known)
    if values.get("backbone_weights"):
        values["backbone_weights"] = str(study.path(values["backbone_weights"]))
    return values


def metrics_of(cell: StudyCell) -> dict[str, Any] | None:
    """The metrics of a cell that is done with these very settings, else None."""
    note = read_note(cell.folder)
    if note is None or note.get("digest") != cell.digest:
        return None
    metrics = _read(cell.folder / METRICS)
    return metrics if metrics is not None and "model" in metrics else None


def read_note(folder: Path) -> dict[str, Any] | None:
    """What a cell's folder says of itself, None where it is no cell's."""
    return _read(folder / CELL)


def prepared_digest(path: Path) -> str:
    """SHA-256 of what was prepared, wherever it and its slides lie now."""
    content = json.loads((path / PREPARED_FILE).read_text(encoding="utf-8"))
    content.pop("source", None)
    content.pop("versions", None)
    for section in content["sections"]:
        section.pop("slide", None)
    return _digest(content)


def _make_cell(
    study: Study, out: Path, label: str, prepared: Prepared, fold: Fold, model: str, seed: int
) -> StudyCell:
    config, options = split_settings(
        {
            **settings_of(study, study.config.datasets[label], model),
            "n_genes": prepared.n_genes,
            "feature_dim": prepared.feature_dim,
            "selection": study.config.selection,
            "seed": seed,
        }
    )
    content = {
        "config": _with_first_keys(config.to_dict()),
        "options": _with_first_keys(options.to_dict()),
        "fold": asdict(fold),
        "prepared": prepared_digest(prepared.path),
    }
    folder = out / CELLS / slug(label) / slug(model) / f"fold-{fold.index}" / f"seed-{seed}"
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


def _folds(study: Study, label: str, prepared: Prepared) -> Iterator[Fold]:
    wanted = study.config.folds
    if wanted == "all":
        yield from prepared.folds
        return
    for number in wanted:
        if not 0 <= number < len(prepared.folds):
            raise ConfigError(
                f"folds: {number} is none of {label}; there are 0 to {len(prepared.folds) - 1}"
            )
        yield prepared.folds[number]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
