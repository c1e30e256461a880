"""Read the file of a study: data sets, models, folds and seeds to compare."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from triplex_deploy.errors import ConfigError
from triplex_deploy.training.options import YAML_SUFFIXES, current_selection, read_settings_file

SHIPPED: Final = Path(__file__).parent / "configs"
"""Folder of the studies of this package, which are found by their names."""
FIXED: Final = ("seed", "selection", "n_genes", "feature_dim", "bank_size")
"""Settings that the study or its data decide, the same for every model."""

Settings = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PaperColumn(_Strict):
    """Where the paper prints values for the same data."""

    table: Literal["table1", "table3", "table4", "table5"]
    """Table of the paper."""
    column: str
    """Column of the table."""


class DatasetEntry(_Strict):
    """A data set to train on."""

    prepared: str
    """Folder that ``prepare`` has made."""
    also_prepared: list[str] = []
    """Folders of the same data prepared with other neighborhoods. A model whose settings name a
    neighborhood is trained on the folder that has it, every other model on ``prepared``."""
    paper: PaperColumn | None = None
    """Where the paper prints values for this data set."""
    settings: dict[str, Settings] = {}
    """Settings of a model, by its label, on this data set only."""


class ExternalEntry(_Strict):
    """Sections that models trained on another data set are tested on."""

    prepared: str
    """Folder that ``prepare`` has made."""
    trained_on: str
    """Label of the data set that the models are trained on."""
    models: list[str] = []
    """Labels of the models to test; empty for all."""
    samples: dict[str, str] = {}
    """Column of the paper's Table 2, by the section's name."""


class MapEntry(_Strict):
    """Genes to draw over a section of a data set."""

    section: str
    """Name of the section."""
    genes: list[str] = []
    """Symbols of the genes; empty for the 3 that the reference predicts best."""


class StudyConfig(_Strict):
    """The content of a study's file."""

    name: str
    """Name of the study and of the files of its results."""
    datasets: dict[str, DatasetEntry] = Field(min_length=1)
    """Data sets by label."""
    models: dict[str, Settings] = Field(min_length=1)
    """Settings of model and training, by the model's label."""
    baselines: list[Literal["tile_ridge", "context_ridge"]] = []
    """Ridge regressions to score on the same folds, beside the models."""
    reference: str | None = None
    """Label of the model that the others are compared with, fold by fold."""
    folds: Literal["all"] | list[int] = "all"
    """Numbers of the prepared folds to train, or ``all``."""
    seeds: list[int] = Field(default=[2021], min_length=1)
    """Seeds to train every model with."""
    selection: Annotated[Literal["validation", "test_fold"], BeforeValidator(current_selection)] = (
        "validation"
    )
    """Sections that decide the best epoch; ``test_fold`` as in the paper."""
    settings: Settings = {}
    """Settings of all models."""
    paper_rows: dict[str, str] = {}
    """Row of the paper's table, by the model's label; the label itself if it is left out."""
    external: dict[str, ExternalEntry] = {}
    """External tests by label."""
    maps: dict[str, MapEntry] = {}
    """Map to draw, by the data set's label."""

    @model_validator(mode="after")
    def _names_are_known(self) -> StudyConfig:
        for what, labels, known in self._references():
            for label in labels:
                if label not in known:
                    raise ValueError(f"{what} {label}: {_closest(label, known)}")
        for labels in ([self.name], self.datasets, self.models, self.external):
            slugs = [slug(label) for label in labels]
            if "" in slugs or len(set(slugs)) < len(slugs):
                raise ValueError(
                    f"{', '.join(labels)}: names of folders must differ; change a label"
                )
        return self

    def _references(self) -> Iterable[tuple[str, Iterable[str], Iterable[str]]]:
        yield "reference", [self.reference] if self.reference else [], self.models
        yield "paper_rows", self.paper_rows, self.models
        yield "maps", self.maps, self.datasets
        for label, dataset in self.datasets.items():
            yield f"datasets.{label}.settings", dataset.settings, self.models
        for label, external in self.external.items():
            yield f"external.{label}.trained_on", [external.trained_on], self.datasets
            yield f"external.{label}.models", external.models, self.models


@dataclass(frozen=True)
class Study:
    """A study and the folder of its relative paths."""

    config: StudyConfig
    """Content of the study's file."""
    root: Path
    """Folder at which relative paths start."""

    def path(self, given: str) -> Path:
        """Return the path that the study's file gives, relative to ``root``."""
        return self.root / Path(given).expanduser()


def read_study(name: str | Path, root: Path | None = None) -> Study:
    """Read the file of a study, or a study of this package by its name.

    Args:
        name: Path of a YAML or JSON file, or a name of ``shipped_studies``.
        root: Folder at which relative paths start; None for the file's folder, or the working
            folder for a study of this package.

    Raises:
        ConfigError: If there is no such study, or its file is not valid.
    """
    path = Path(name)
    shipped = shipped_studies()
    is_shipped = not path.is_file() and str(name) in shipped  # it may name --out's folder, too
    if not path.exists() and not is_shipped:
        raise ConfigError(
            f"{name}: no such file, and no study of the package; {_closest(str(name), shipped)}"
        )
    path = SHIPPED / f"{name}.yaml" if is_shipped else path
    config = _parse(path, read_settings_file(path))
    return Study(config, root or (Path() if is_shipped else path.parent))


def shipped_studies() -> list[str]:
    """Return the names of the studies of this package."""
    return sorted(path.stem for path in SHIPPED.iterdir() if path.suffix in YAML_SUFFIXES)


def slug(label: str) -> str:
    """Return a label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", label).strip("-.")


def require_known(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Check that all keys are known.

    Raises:
        ConfigError: If a key is not known; the message suggests the closest known key.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            raise ConfigError(f"{where}: {key} is not a setting; {_closest(key, known)}")


def _parse(path: Path, values: Mapping[str, Any]) -> StudyConfig:
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """Return the first fault; an unknown key goes first, with the closest known key."""
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        kinds = (StudyConfig, DatasetEntry, ExternalEntry, MapEntry, PaperColumn)
        depth = {1: kinds[:1]}.get(len(first["loc"]), kinds[1:])
        known = [key for kind in depth for key in kind.model_fields]
        return f"{place}: not a key of a study; {_closest(str(first['loc'][-1]), known)}"
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def _closest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"
