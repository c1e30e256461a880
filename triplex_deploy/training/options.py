"""What a caller may choose about training, checked once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.contract import (
    CONFIGS,
    Config,
    Hist2StConfig,
    HisToGeneConfig,
    config_from_dict,
)
from triplex_deploy.errors import ConfigError
from triplex_deploy.training.prepared import SELECTIONS

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
PRECISIONS: Final = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class TrainOptions:
    """The paper's recipe (MODELS 1.7) but for ``selection``; an odd value raises ``ConfigError``.

    ``selection`` decides where the best epoch is looked for: ``honest`` on a held-out training
    patient, ``paper`` on the test fold itself. With ``refit`` an honest choice of epochs is
    followed by a training on all of the fold's training sections for as many. ``patience`` is in
    epochs; ``feature_dropout`` is the share of frozen features that a step does not see;
    ``ema_decay`` above 0 keeps a running mean of the weights over steps and uses it;
    ``target_trunk_lr_scale`` multiplies the learning rate of the image trunk, 0 freezing it;
    ``trunk_weights`` is a file of published weights the trunk starts from, "" for none.
    ``accelerator`` and ``devices`` are Lightning Fabric's.
    """

    selection: str = "honest"
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-4
    lr_step_epochs: int = 50
    lr_gamma: float = 0.9
    weight_decay: float = 0.0
    patience: int = 20
    refit: bool = False
    feature_dropout: float = 0.0
    ema_decay: float = 0.0
    target_trunk_lr_scale: float = 1.0
    trunk_weights: str = ""
    augment: bool = True
    seed: int = 2021
    precision: Precision = "32-true"
    accelerator: str = "cpu"
    devices: int = 1

    def __post_init__(self) -> None:
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
        if self.target_trunk_lr_scale < 0:
            raise ConfigError(f"target_trunk_lr_scale={self.target_trunk_lr_scale}: not below 0")
        if self.refit and self.selection != "honest":
            raise ConfigError("refit: follows an honest selection; paper already fits on all")
        if not (self.learning_rate > 0 and self.lr_gamma > 0 and self.weight_decay >= 0):
            raise ConfigError(
                "learning_rate and lr_gamma must be positive, weight_decay not below 0"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"training options: unknown keys {', '.join(unknown)}; remove them")
        return cls(**values)


def _check_types(options: TrainOptions) -> None:
    """Every value has the type of its default, a whole number counting as a float too."""
    for field in fields(options):
        value, default = getattr(options, field.name), field.default
        kind = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
            raise ConfigError(f"{field.name}={value!r}: expected {type(default).__name__}")


YAML_SUFFIXES: Final = (".yaml", ".yml")
_FLOAT: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$")


def read_settings(path: Path | None, assignments: Iterable[str]) -> dict[str, Any]:
    """Keys of a file, overridden by ``KEY=VALUE``; values are JSON, or else text."""
    values = read_settings_file(path) if path is not None else {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: use KEY=VALUE, such as learning_rate=3e-4")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def split_settings(values: Mapping[str, Any]) -> tuple[Config, TrainOptions]:
    """Deal keys to the model that ``model`` names, triplex if none, and to training.

    Training options the user leaves out are those recommended for the model. A key of neither, and
    an unknown model, raise ``ConfigError``.
    """
    name = values.get("model", "triplex")
    kind = CONFIGS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"model={name!r}: use {', '.join(CONFIGS)}")
    of_model = {field.name for field in fields(kind)}
    of_training = {field.name for field in fields(TrainOptions)}
    unknown = sorted(set(values) - of_model - of_training)
    if unknown:
        known = ", ".join(sorted(of_model | of_training))
        raise ConfigError(f"{', '.join(unknown)}: not a setting of {name}; known: {known}")
    config = config_from_dict({k: v for k, v in values.items() if k in of_model})
    chosen = {k: v for k, v in values.items() if k in of_training}
    return config, TrainOptions.from_dict({**recommended_options(kind), **chosen})


def read_settings_file(path: Path) -> dict[str, Any]:
    """Keys and values of a JSON file, or of YAML where the name ends so; else ``ConfigError``."""
    try:
        text = path.read_text(encoding="utf-8")
        content = _parse_yaml(text) if path.suffix.lower() in YAML_SUFFIXES else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); correct it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: no table of settings; write key: value")
    return content


def _parse_yaml(text: str) -> Any:
    """Plain values alone, never objects; 1e-4 is a number here, as in YAML 1.2."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_WHOLE_SLIDES: Final = {"learning_rate": 1e-5}
"""MODELS 2.2 and 2.3: one step per section and a transformer without a warm-up."""

_RECOMMENDED: Final[dict[type[Config], dict[str, Any]]] = {
    HisToGeneConfig: _WHOLE_SLIDES,
    Hist2StConfig: _WHOLE_SLIDES,
}


def recommended_options(kind: type[Config]) -> dict[str, Any]:
    """What holds for a model unless the user sets it; empty where the shared recipe does."""
    return dict(_RECOMMENDED.get(kind, {}))
