"""Settings of model and training from a file and from ``KEY=VALUE``, each key known to one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.training.options import TrainOptions


def read_settings(path: Path | None, assignments: Iterable[str]) -> dict[str, Any]:
    """Keys of a JSON file, overridden by ``KEY=VALUE``; values are JSON, or else text."""
    values = _read_file(path) if path is not None else {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: use KEY=VALUE, such as learning_rate=3e-4")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def split_settings(values: Mapping[str, Any]) -> tuple[ModelConfig, TrainOptions]:
    """Deal keys to the model and to training; a key of neither raises ``ConfigError``."""
    of_model = {field.name for field in fields(ModelConfig)}
    of_training = {field.name for field in fields(TrainOptions)}
    unknown = sorted(set(values) - of_model - of_training)
    if unknown:
        known = ", ".join(sorted(of_model | of_training))
        raise ConfigError(f"{', '.join(unknown)}: not a setting; known: {known}")
    config = ModelConfig.from_dict({k: v for k, v in values.items() if k in of_model})
    return config, TrainOptions.from_dict({k: v for k, v in values.items() if k in of_training})


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object; use {{key: value}}")
    return content
