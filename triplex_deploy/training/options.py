"""What a caller may choose about training, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

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
