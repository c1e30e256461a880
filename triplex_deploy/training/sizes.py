"""What of a model's configuration only the data know."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from triplex_deploy.contract import Config
from triplex_deploy.errors import ConfigError
from triplex_deploy.training.prepared import Prepared

C = TypeVar("C", bound=Config)


def fit_to_data(config: C, prepared: Prepared, n_genes: int) -> C:
    """The configuration with as many array positions as any prepared section needs.

    Another number of genes, or another width of features, than were prepared raise ``ConfigError``.
    """
    for key, given in (("n_genes", n_genes), ("feature_dim", prepared.feature_dim)):
        if getattr(config, key) != given:
            raise ConfigError(f"{key}={getattr(config, key)}: {given} were prepared; use that")
    if getattr(config, "bank_size", 0):
        raise ConfigError("bank_size: training fills it in; leave it out")
    largest = max(int(one.section.grid_rc.max()) for one in prepared.sections.values())
    known = getattr(config, "n_positions", 0)
    return _with(config, n_positions=max(known, 1 + largest))


def with_bank(config: C, n_spots: int) -> C:
    """The configuration of the model that looks up ``n_spots``, where it looks up any."""
    return _with(config, bank_size=n_spots)


def _with(config: C, **values: int) -> C:
    """The keys that this configuration has."""
    known = {field.name for field in fields(config)}
    fitting: dict[str, Any] = {key: value for key, value in values.items() if key in known}
    return replace(config, **fitting)
