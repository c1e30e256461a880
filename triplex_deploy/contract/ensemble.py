"""Ensembles: several trained models of one family, run as one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Final

from triplex_deploy.contract.config import Config
from triplex_deploy.contract.graphs import GraphSpec, TensorSpec
from triplex_deploy.contract.neighborhood import Neighborhood
from triplex_deploy.contract.registry import config_from_dict
from triplex_deploy.errors import ConfigError

MAX_MEMBERS: Final = 64
"""Largest number of members of an ensemble."""
ENSEMBLE: Final = "ensemble"
"""Value of ``model`` of an ensemble."""


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """Configuration of an ensemble of models that differ in their weights only.

    The members share the frozen tile encoder. Every other graph holds the members side by side:
    axis 1 of what it returns has ``members`` times the member's length, the first member's values
    first.
    """

    display_name: ClassVar[str] = "Ensemble"
    network: ClassVar[str] = "triplex_deploy.models.ensemble:Ensemble"

    model: str = ENSEMBLE
    """``ensemble``."""
    members: int = 2
    """Number of members."""
    member: Mapping[str, Any] = field(default_factory=dict)
    """Configuration of each member, as plain values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.members <= MAX_MEMBERS:
            raise ConfigError(f"members={self.members}: use 1 to {MAX_MEMBERS}")
        if self.member.get("model") == ENSEMBLE:
            raise ConfigError("member: an ensemble cannot hold ensembles; give its members")
        base = self.base
        if base.lookup is not None:
            raise ConfigError(
                f"member: {base.model} looks up training spots, which ensembles do not support; "
                "export its folds one by one"
            )
        for key in ("n_genes", "feature_dim"):
            if getattr(self, key) != getattr(base, key):
                raise ConfigError(
                    f"{key}={getattr(self, key)}: the members have {getattr(base, key)}; "
                    "give the ensemble the value of its members"
                )

    @classmethod
    def of(cls, member: Config, members: int) -> EnsembleConfig:
        """Return the configuration of ``members`` models of the configuration ``member``."""
        return cls(
            n_genes=member.n_genes,
            feature_dim=member.feature_dim,
            members=members,
            member=member.to_dict(),
        )

    @cached_property
    def base(self) -> Config:
        """The configuration of a member."""
        return config_from_dict(self.member)

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the member's graphs, with the outputs of all members side by side."""
        made = {
            tensor.name
            for spec in self.base.graphs()
            if spec.name != "tile_encoder"
            for tensor in spec.outputs
        }
        return tuple(
            replace(
                spec,
                inputs=tuple(self._widened(tensor, made) for tensor in spec.inputs),
                outputs=tuple(self._widened(tensor, made) for tensor in spec.outputs),
            )
            for spec in self.base.graphs()
        )

    def _widened(self, tensor: TensorSpec, made: set[str]) -> TensorSpec:
        """Return ``tensor`` for all members, unchanged if the members share it."""
        if tensor.name not in made:
            return tensor
        batch, length, *rest = tensor.axes
        return replace(tensor, axes=(batch, self.members * int(length), *rest))

    @property
    def title(self) -> str:
        """Return the title of the members, and their number."""
        return f"{self.base.title} ensemble of {self.members}"

    @property
    def n_members(self) -> int:
        """Return the number of members."""
        return self.members

    @property
    def clips_at_zero(self) -> bool:
        """Return whether the exported graph sets negative expression to zero."""
        return self.base.clips_at_zero

    @property
    def neighbors(self) -> Neighborhood:
        """Return where neighbor tiles are taken."""
        return self.base.neighbors

    @property
    def quantizable(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the graphs that keep their accuracy in int8 and fp8."""
        return self.base.quantizable

    @property
    def supports_tensorrt(self) -> bool:  # type: ignore[override]
        """Return whether the members' family was tested on TensorRT."""
        return self.base.supports_tensorrt
