"""Hold the table of models, from which a configuration is made of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from triplex_deploy.contract.config import Config
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.escape import short_repr

CONFIGS: Final[dict[str, type[Config]]] = {}
"""The configuration class of each model, by the model's name."""


def register(kind: type[Config], *names: str) -> None:
    """Add a family of models to ``CONFIGS``.

    Args:
        kind: The configuration class of the family.
        names: Names of the family's models; without any, the default of ``kind.model``.

    Raises:
        ConfigError: If another class has a name already.
    """
    for name in names or (str(kind.__dict__["model"]),):
        if CONFIGS.setdefault(name, kind) is not kind:
            raise ConfigError(f"model {name!r}: registered already; choose another name")


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Return the configuration of the model named by ``values["model"]``, triplex if absent.

    Args:
        values: Settings as plain values; keys of earlier versions are accepted.

    Raises:
        ConfigError: If the model or a key is unknown, or a value is wrong.
    """
    name = values.get("model", "triplex")
    if not isinstance(name, str) or name not in CONFIGS:
        raise ConfigError(f"model={short_repr(name)}: this version supports {', '.join(CONFIGS)}")
    return CONFIGS[name].from_dict(values)
