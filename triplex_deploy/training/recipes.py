"""Import the functions that a family's training recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from triplex_deploy.contract import Config
from triplex_deploy.errors import ConfigError
from triplex_deploy.training.batches import Sampler
from triplex_deploy.training.objectives import Objective
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections
from triplex_deploy.training.score import Score
from triplex_deploy.training.starting_point import Start

MakeObjective = Callable[[Any, LabeledSections, TrainOptions, torch.device], Objective]
"""Makes the objective of a model from the training sections, the options and the device."""
MakeSampler = Callable[[Config, LabeledSections, TrainOptions], Sampler]
"""Makes the sampler of batches from the training sections."""


@dataclass(frozen=True)
class Recipe:
    """The functions that train a family; each takes models of that family only."""

    start: Start
    """Initializes the weights before the first step."""
    objective: MakeObjective
    """Makes the loss of a batch."""
    sampler: MakeSampler
    """Makes the batches of an epoch."""
    score: Score
    """Scores an epoch; the epoch with the highest score is kept."""
    hides_features: bool = False
    """Whether the objective uses ``feature_dropout``."""


def recipe_of(config: Config) -> Recipe:
    """Return the functions that ``config.recipe`` names.

    Raises:
        ConfigError: A function cannot be imported.
    """
    names = config.recipe
    return Recipe(
        start=_imported(config, names.start),
        objective=_imported(config, names.objective),
        sampler=_imported(config, names.sampler),
        score=_imported(config, names.score),
        hides_features=names.hides_features,
    )


def check_options(config: Config, options: TrainOptions) -> None:
    """Raise ``ConfigError`` for an option that would have no effect on this model."""
    if options.feature_dropout and not config.recipe.hides_features:
        raise ConfigError(
            f"feature_dropout={options.feature_dropout}: {config.model} hides no features; "
            "leave it at 0"
        )


def _imported(config: Config, name: str) -> Any:
    """Return the function ``package.module:function``."""
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"recipe of {config.model}: {name} cannot be imported ({error}); "
            "name it package.module:function"
        ) from error
