"""Settings of model and training, from a file of JSON or YAML and from ``KEY=VALUE``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract import CONFIGS, Config, config_from_dict
from triplex_deploy.errors import ConfigError
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.recommended import recommended_options

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
