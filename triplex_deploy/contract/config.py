"""Define what the configurations of all models have in common.

One configuration class declares a family of models. Its fields are the settings. Its class
attributes are what the rest of the project must know about the family.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final, Self

from triplex_deploy.contract.graphs import FEATURE_DIM, GraphSpec
from triplex_deploy.contract.neighborhood import Neighborhood
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.escape import short_repr

LIMITS: Final = {"apeg_kernel": 63, "n_genes": 200_000, "bank_size": 100_000_000}
"""Largest values of settings that set the size of a whole array."""
MAX_DEPTH: Final = 256
"""Largest number of layers of a part of a model."""
MAX_COUNT: Final = 1 << 17
"""Largest value of any other whole number of a configuration, such as a width."""
MAX_FACTOR: Final = 1e6
"""Largest value of a factor, such as the weight of a loss."""
RENAMED: Final = {"target_trunk": "target_backbone"}
"""Keys of earlier versions, which files may still use, and their names today."""


@dataclass(frozen=True)
class Lookup:
    """A graph that finds the nearest training spots in the model's bank."""

    graph: str
    """Name of the graph."""
    query: str
    """Name of the graph's input that is compared with the bank."""
    count: str
    """Field of the configuration that says how many spots are found."""


SPOTS: Final = "triplex_deploy.training.batches:sample_spots"
"""Sampler of batches that mix spots of all sections."""
WHOLE_SECTIONS: Final = "triplex_deploy.training.batches:sample_sections"
"""Sampler of batches of one whole section."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Names the functions that train a family.

    A function is ``package.module:function``, imported when training begins, so that this package
    needs no PyTorch. ``training/recipes.py`` has the type of each function.
    """

    start: str = "triplex_deploy.training.starting_point:start_near_mean"
    """Function that initializes the weights."""
    objective: str = "triplex_deploy.training.objectives:mean_squared_error"
    """Function that makes the loss of a batch."""
    sampler: str = SPOTS
    """Function that makes the batches: ``SPOTS`` or ``WHOLE_SECTIONS``, or another."""
    score: str = "triplex_deploy.training.score:correlation_score"
    """Function that scores an epoch; the epoch with the highest score is kept."""
    hides_features: bool = False
    """Whether the objective uses ``feature_dropout``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Training options recommended for the family, by name, where they differ from the default."""


def without_new_defaults(settings: Any, added: Collection[str]) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without those of ``added`` at their default."""
    defaults = {field.name: field.default for field in fields(settings) if field.name in added}
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in defaults or value != defaults[name]
    }


@dataclass(frozen=True)
class Config(ABC):
    """Configuration of a model; a wrong value raises ``ConfigError``.

    A subclass is a family. It sets the class attributes below and is registered with
    ``contract.register``.
    """

    display_name: ClassVar[str]
    """Name in tables and texts, such as ``ST-Net``."""
    network: ClassVar[str]
    """``package.module:Class`` of the PyTorch network, which is built from the configuration."""
    quantizable: ClassVar[tuple[str, ...]] = ()
    """Graphs that keep their accuracy in int8 and fp8: convolutional image encoders."""
    lookup: ClassVar[Lookup | None] = None
    """The graph that looks up training spots; None for a family without a bank."""
    recipe: ClassVar[TrainingRecipe] = TrainingRecipe()
    """How the family is trained."""
    added: ClassVar[tuple[str, ...]] = ()
    """Names of settings that the family got after 27 November 2026; add each new setting here.

    Digests leave such a setting out while it has its default, so that digests of earlier versions
    stay valid.
    """
    supports_tensorrt: ClassVar[bool] = False
    """Whether the family was tested on TensorRT."""
    supports_triton: ClassVar[bool] = False
    """Whether the chain of the Triton repository knows the family's graphs."""

    model: str
    """Name of the model, as in ``contract.CONFIGS``."""
    n_genes: int = 250
    """Number of predicted genes."""
    feature_dim: int = FEATURE_DIM
    """Width of the features of the frozen tile encoder."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            self._require_plausible(setting.name)
        self.require_positive("n_genes", "feature_dim")

    def _require_plausible(self, key: str) -> None:
        """Raise ``ConfigError`` for a number that no model has, which would need all memory."""
        value = getattr(self, key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: use a finite number")
        other = MAX_DEPTH if key.endswith("depth") else MAX_COUNT
        most = MAX_FACTOR if isinstance(value, float) else LIMITS.get(key, other)
        if abs(value) > most:
            raise ConfigError(f"{key}={short_repr(value)}: use at most {most:g}")

    @abstractmethod
    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the graphs of a bundle of this configuration, in the order they run."""

    @property
    def title(self) -> str:
        """Return the name of this model in titles: ``display_name``, if a family has one model."""
        return self.display_name

    @property
    def clips_at_zero(self) -> bool:
        """Return whether the exported graph sets negative expression to zero."""
        return False

    @property
    def base(self) -> Config:
        """Return the configuration of one member of an ensemble; of any other model its own."""
        return self

    @property
    def n_members(self) -> int:
        """Return the number of members of an ensemble; 1 for any other model."""
        return 1

    @property
    def neighbors(self) -> Neighborhood:
        """Return where neighbor tiles are taken; exact for a family that has no such setting."""
        return Neighborhood()

    @classmethod
    def current_keys(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` with the keys of earlier versions renamed to today's.

        Raises:
            ConfigError: If a value is given under both names.
        """
        renamed: dict[str, Any] = {}
        for key, value in values.items():
            name = RENAMED.get(key, key)
            if name in renamed:
                raise ConfigError(f"{name}: given twice, also under an old name; keep {name}")
            renamed[name] = value
        return renamed

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of plain values; keys of earlier versions are accepted.

        Raises:
            ConfigError: If a key is unknown or a value has the wrong type.
        """
        values = cls.current_keys(values)
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise ConfigError(f"{key}: not a model option; known: {', '.join(sorted(kinds))}")
            if not _is_kind(value, kinds[key]):
                raise ConfigError(f"{key}={short_repr(value)}: expected {kinds[key]}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)

    def digest_values(self) -> dict[str, Any]:
        """Return the settings that a digest covers, without ``added`` settings at their default."""
        return without_new_defaults(self, self.added)

    def require_positive(self, *keys: str) -> None:
        """Raise ``ConfigError`` if a setting is below 1."""
        for key in keys:
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: use at least 1")

    def require_choice(self, key: str, choices: tuple[str, ...]) -> None:
        """Raise ``ConfigError`` if a setting is not among ``choices``."""
        value = getattr(self, key)
        if value not in choices:
            raise ConfigError(
                f"{key}={short_repr(value)}: this version supports {', '.join(choices)}"
            )

    def require_share(self, *keys: str) -> None:
        """Raise ``ConfigError`` if a setting is not in [0, 1)."""
        for key in keys:
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{key} must lie in [0, 1)")


@dataclass(frozen=True)
class BankConfig(Config):
    """Configuration of a model that looks up training spots in a bank."""

    bank_size: int = 0
    """Number of training spots in the bank; 0 until training fills it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank_size < 0:
            raise ConfigError(f"bank_size={self.bank_size}: not below 0")

    def require_in_bank(self, key: str) -> None:
        """Raise ``ConfigError`` if a setting is below 1 or above the size of the bank."""
        self.require_positive(key)
        if self.bank_size and getattr(self, key) > self.bank_size:
            raise ConfigError(
                f"{key}={getattr(self, key)}: the bank has {self.bank_size} spots; use fewer"
            )


def _is_kind(value: object, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind.startswith("Mapping"):
        return isinstance(value, Mapping)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)
