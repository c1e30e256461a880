"""What the configurations of all models have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from triplex_deploy.contract.graphs import FEATURE_DIM, GraphSpec
from triplex_deploy.errors import ConfigError


@dataclass(frozen=True)
class Config(ABC):
    """Which model it is, how many genes it predicts, and the width of the frozen tile encoder.

    An odd value raises ``ConfigError``.
    """

    model: str
    n_genes: int = 250
    feature_dim: int = FEATURE_DIM

    def __post_init__(self) -> None:
        self.require_positive("n_genes", "feature_dim")

    @abstractmethod
    def graphs(self) -> tuple[GraphSpec, ...]:
        """The graphs a bundle of this configuration holds, in the order they run."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; an unknown or wrongly typed key raises ``ConfigError``."""
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise ConfigError(f"{key}: not a model option; known: {', '.join(sorted(kinds))}")
            if not _is_kind(value, kinds[key]):
                raise ConfigError(f"{key}={value!r}: expected {kinds[key]}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def require_positive(self, *keys: str) -> None:
        for key in keys:
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: use at least 1")

    def require_choice(self, key: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, key)
        if value not in choices:
            raise ConfigError(f"{key}={value!r}: this version supports {', '.join(choices)}")

    def require_share(self, *keys: str) -> None:
        for key in keys:
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{key} must lie in [0, 1)")


def _is_kind(value: object, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)
