"""What a study compares: data sets, models, folds and seeds, read from a file and checked whole."""

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
"""Studies that come with the package and are found by their name."""
FIXED: Final = ("seed", "selection", "n_genes", "feature_dim", "bank_size")
"""Settings that the study or its data decide, alike for every model."""

Settings = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PaperColumn(_Strict):
    """Where the paper prints values for the same data."""

    table: Literal["table1", "table3", "table4", "table5"]
    column: str


class DatasetEntry(_Strict):
    """A folder that ``prepare`` made; ``settings`` are those of a model on this data set alone."""

    prepared: str
    paper: PaperColumn | None = None
    settings: dict[str, Settings] = {}


class ExternalEntry(_Strict):
    """Prepared sections that the models of the data set ``trained_on`` are tested on.

    ``samples`` maps a section to its column in the paper's Table 2; ``models`` [] are all.
    """

    prepared: str
    trained_on: str
    models: list[str] = []
    samples: dict[str, str] = {}


class MapEntry(_Strict):
    """Genes drawn over a section of a data set, the 3 that the reference predicts best if none."""

    section: str
    genes: list[str] = []


class StudyConfig(_Strict):
    """One study, whose results are called ``name``.

    ``reference`` is the model others are compared with, fold by fold. ``models`` are labels with
    any settings of model and training, and ``settings`` hold for all of them. ``folds`` are numbers
    of the prepared folds. ``paper_rows`` says which row of the paper's table a label is, where they
    differ.
    """

    name: str
    datasets: dict[str, DatasetEntry] = Field(min_length=1)
    models: dict[str, Settings] = Field(min_length=1)
    reference: str | None = None
    folds: Literal["all"] | list[int] = "all"
    seeds: list[int] = Field(default=[2021], min_length=1)
    selection: Annotated[Literal["validation", "test_fold"], BeforeValidator(current_selection)] = (
        "validation"
    )
    settings: Settings = {}
    paper_rows: dict[str, str] = {}
    external: dict[str, ExternalEntry] = {}
    maps: dict[str, MapEntry] = {}

    @model_validator(mode="after")
    def _names_are_known(self) -> StudyConfig:
        for what, labels, known in self._references():
            for label in labels:
                if label not in known:
                    raise ValueError(f"{what} {label}: {_closest(label, known)}")
        for labels in ([self.name], self.datasets, self.models, self.external):
            slugs = [slug(label) for label in labels]
            if "" in slugs or len(set(slugs)) < len(slugs):
                raise ValueError(f"{', '.join(labels)}: names of folders must differ; rename one")
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
    """A configuration, and the folder its relative paths start at."""

    config: StudyConfig
    root: Path

    def path(self, given: str) -> Path:
        return self.root / Path(given).expanduser()


def read_study(name: str | Path, root: Path | None = None) -> Study:
    """Read a configuration file, or a shipped one by its name; ``ConfigError`` if it is odd.

    Relative paths in it start at ``root``, or else at the file's folder; a shipped study's start
    at the working folder.
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
    """Names of the studies in the package."""
    return sorted(path.stem for path in SHIPPED.iterdir() if path.suffix in YAML_SUFFIXES)


def slug(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", label).strip("-.")


def require_known(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``ConfigError`` for a key that is not known, with the closest that is."""
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
    """The first thing wrong, an unknown key before others, with the closest that is known."""
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
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
