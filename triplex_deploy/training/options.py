"""Check the settings of a training once, and read them from a file and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.contract import (
    CONFIGS,
    Config,
    config_from_dict,
)
from triplex_deploy.contract.config import without_new_defaults
from triplex_deploy.contract.ensemble import ENSEMBLE
from triplex_deploy.errors import ConfigError

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
PRECISIONS: Final = ("32-true", "16-mixed", "bf16-mixed")

VALIDATION: Final = "validation"
TEST_FOLD: Final = "test_fold"
SELECTIONS: Final = (VALIDATION, TEST_FOLD)
OLD_SELECTIONS: Final = {"honest": VALIDATION, "paper": TEST_FOLD}
"""Names of selections in commands, files and runs of earlier versions."""
OLD_OPTIONS: Final = {
    "target_trunk_lr_scale": "backbone_lr_scale",
    "trunk_weights": "backbone_weights",
}
"""Keys of training options in files and runs of earlier versions."""
ADDED_OPTIONS: Final[tuple[str, ...]] = ()
"""Names of training options added after 27 November 2026; add each new option here.

Digests leave such an option out while it has its default, so that digests of earlier versions stay
valid and finished trainings of a study are not repeated.
"""

YAML_SUFFIXES: Final = (".yaml", ".yml")
_YAML_FLOAT: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$")


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training; the defaults are the paper's recipe except for ``selection``.

    The recipe is in docs/models.md, "Training recipe".

    Raises:
        ConfigError: For a value of the wrong type or out of range.
    """

    selection: str = VALIDATION
    """Where the best epoch is looked for: ``validation``, a held-out training patient, or
    ``test_fold``, the test sections, as published."""
    epochs: int = 200
    """Maximum number of epochs."""
    batch_size: int = 128
    """Spots per step; models trained on whole sections take one section per step instead."""
    learning_rate: float = 1e-4
    lr_step_epochs: int = 50
    """Epochs after which the learning rate is multiplied by ``lr_gamma``, again and again."""
    lr_gamma: float = 0.9
    weight_decay: float = 0.0
    patience: int = 20
    """Epochs without a better score after which training stops."""
    refit: bool = False
    """After a validation selection, train again on all training sections for as many epochs."""
    feature_dropout: float = 0.0
    """Share of the frozen features that each step replaces by their mean."""
    ema_decay: float = 0.0
    """Above 0, a running mean of the weights over steps is kept and used."""
    backbone_lr_scale: float = 1.0
    """Learning rate of the image backbone relative to the rest; 0 freezes it."""
    backbone_weights: str = ""
    """File of published weights that the image backbone starts from; "" for none."""
    augment: bool = True
    """Flip and turn tiles at random."""
    seed: int = 2021
    """Seed of weights, order, augmentation and dropout."""
    precision: Precision = "32-true"
    """Number format, as Lightning Fabric names it."""
    accelerator: str = "cpu"
    """Device, as Lightning Fabric names it."""
    devices: int = 1
    """Number of devices."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "selection", current_selection(self.selection))
        _check_types(self)
        if self.selection not in SELECTIONS:
            raise ConfigError(f"selection {self.selection!r}: use {' or '.join(SELECTIONS)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r}: use {', '.join(PRECISIONS)}")
        for key in ("epochs", "batch_size", "lr_step_epochs", "patience", "devices"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 1")
        for key in ("ema_decay", "feature_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: use a value in [0, 1)")
        if self.backbone_lr_scale < 0:
            raise ConfigError(f"backbone_lr_scale={self.backbone_lr_scale}: must not be below 0")
        if self.refit and self.selection != VALIDATION:
            raise ConfigError(
                f"refit: needs selection={VALIDATION}; {TEST_FOLD} already trains on all sections"
            )
        if not (self.learning_rate > 0 and self.lr_gamma > 0 and self.weight_decay >= 0):
            raise ConfigError(
                "learning_rate and lr_gamma must be positive, weight_decay must not be below 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return asdict(self)

    def digest_values(self) -> dict[str, Any]:
        """Return the options that a digest covers, without ``ADDED_OPTIONS`` at their default."""
        return without_new_defaults(self, ADDED_OPTIONS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Return the options of ``to_dict``, of this version or an earlier one.

        Raises:
            ConfigError: For an unknown key or a wrong value.
        """
        values = current_keys(values)
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"training options: unknown keys {', '.join(unknown)}; remove them")
        return cls(**values)


def current_selection(name: Any) -> Any:
    """Return today's name of a selection; a value that is no old name is returned unchanged."""
    return OLD_SELECTIONS.get(name, name) if isinstance(name, str) else name


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the keys of earlier versions renamed to today's.

    Raises:
        ConfigError: If a setting is given under both names.
    """
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        name = OLD_OPTIONS.get(key, key)
        if name in renamed:
            raise ConfigError(f"{name}: given twice, also under an old name; keep {name}")
        renamed[name] = value
    return renamed


def read_settings(path: Path | None, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a file, overridden by assignments.

    Args:
        path: JSON or YAML file; None for none.
        assignments: ``KEY=VALUE`` texts. A value is read as JSON, or else taken as text.

    Raises:
        ConfigError: For a file or an assignment that cannot be read.
    """
    values = current_keys(read_settings_file(path)) if path is not None else {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: use KEY=VALUE, such as learning_rate=3e-4")
        key = OLD_OPTIONS.get(key, key)
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def split_settings(values: Mapping[str, Any]) -> tuple[Config, TrainOptions]:
    """Split settings into those of the model and those of the training.

    Args:
        values: Settings by key; ``model`` names the model, triplex if absent.

    Returns:
        The model's configuration and the training options. Training options that are absent are
        those recommended for the model.

    Raises:
        ConfigError: For an unknown model, an unknown key or a wrong value.
    """
    values = current_keys(values)
    name = values.get("model", "triplex")
    if name == ENSEMBLE:
        raise ConfigError(
            f"model={name!r}: is made of trained models; train them, and export with --ensemble"
        )
    kind = CONFIGS.get(name) if isinstance(name, str) else None
    if kind is None:
        trained = ", ".join(other for other in CONFIGS if other != ENSEMBLE)
        raise ConfigError(f"model={name!r}: use {trained}")
    values = kind.current_keys(values)
    of_model = {field.name for field in fields(kind)}
    of_training = {field.name for field in fields(TrainOptions)}
    unknown = sorted(set(values) - of_model - of_training)
    if unknown:
        known = sorted(of_model | of_training)
        close = get_close_matches(unknown[0], known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise ConfigError(f"{', '.join(unknown)}: not a setting of {name}; {remedy}")
    config = config_from_dict({k: v for k, v in values.items() if k in of_model})
    chosen = {k: v for k, v in values.items() if k in of_training}
    return config, TrainOptions.from_dict({**recommended_options(kind), **chosen})


def read_settings_file(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file, or of JSON where the name does not end in YAML.

    Raises:
        ConfigError: If the file cannot be read or holds no table of keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = _parse_yaml(text) if path.suffix.lower() in YAML_SUFFIXES else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); correct it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: no table of settings; write key: value")
    return content


def recommended_options(kind: type[Config]) -> dict[str, Any]:
    """Return the training options recommended for a model where they differ from the defaults."""
    return dict(kind.recipe.options)


def _check_types(options: TrainOptions) -> None:
    """Raise ``ConfigError`` for a value of another type than its default; an int is a float too."""
    for field in fields(options):
        value, default = getattr(options, field.name), field.default
        kind = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(f"{field.name}={value!r}: expected {type(default).__name__}")


def _parse_yaml(text: str) -> Any:
    """Return plain values only, never objects; 1e-4 is a number here, as in YAML 1.2."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _YAML_FLOAT, list("-+.0123456789"))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
