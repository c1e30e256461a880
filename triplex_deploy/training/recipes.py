"""The parts of training recipes by name; each family declares the names it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeVar

import torch

from triplex_deploy.contract import Config, graph_specs
from triplex_deploy.errors import ConfigError
from triplex_deploy.models import Triplex
from triplex_deploy.training.batches import Sampler, SectionSampler, SpotSampler
from triplex_deploy.training.frozen_backbone import BackboneMaps
from triplex_deploy.training.objectives import (
    BleepObjective,
    EgnObjective,
    Hist2StObjective,
    Objective,
    SlideObjective,
    StNetObjective,
    TriplexObjective,
)
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabelledSections
from triplex_deploy.training.score import Score, contrastive_score, correlation_score
from triplex_deploy.training.starting_point import (
    Start,
    start_bleep,
    start_near_mean,
    start_st_net,
    start_triplex,
)

P = TypeVar("P")
MakeObjective = Callable[[Any, LabelledSections, TrainOptions, torch.device], Objective]
MakeSampler = Callable[[Config, LabelledSections, TrainOptions], Sampler]


@dataclass(frozen=True)
class Recipe:
    """What training asks of a family; each takes the model of that family alone."""

    start: Start
    objective: MakeObjective
    sampler: MakeSampler
    score: Score
    hides_features: bool = False
    """Whether ``feature_dropout`` means something to it."""


def recipe_of(config: Config) -> Recipe:
    """Return how the model of this configuration is trained, as ``config.recipe`` declares."""
    parts = config.recipe
    return Recipe(
        start=_part(parts.start, STARTS),
        objective=_part(parts.objective, OBJECTIVES),
        sampler=_part(parts.sampler, SAMPLERS),
        score=_part(parts.score, SCORES),
        hides_features=parts.hides_features,
    )


def _part(name: str, table: Mapping[str, P]) -> P:
    """Return a part by its name in ``table``, or import ``package.module:function``."""
    module, colon, function = name.partition(":")
    if colon:
        part: P = getattr(import_module(module), function)
        return part
    return table[name]


def check_options(config: Config, options: TrainOptions) -> None:
    """Raise ``ConfigError`` for an option that would have no effect on this model."""
    if options.feature_dropout and not recipe_of(config).hides_features:
        raise ConfigError(
            f"feature_dropout={options.feature_dropout}: {config.model} hides no features; "
            "leave it at 0"
        )


def _spots(config: Config, train: LabelledSections, options: TrainOptions) -> Sampler:
    return SpotSampler(
        train.sections,
        train.labels,
        options.batch_size,
        options.seed,
        options.augment,
        neighborhoods="neighbor_encoder" in graph_specs(config),
    )


def _whole_sections(config: Config, train: LabelledSections, options: TrainOptions) -> Sampler:
    return SectionSampler(train.sections, train.labels, options.seed)


def _triplex(
    model: Triplex, train: LabelledSections, options: TrainOptions, device: torch.device
) -> Objective:
    maps = _backbone_maps(model, options, device)
    return TriplexObjective(model, train.sections, maps, options.feature_dropout)


def _backbone_maps(
    model: Triplex, options: TrainOptions, device: torch.device
) -> BackboneMaps | None:
    """Return the maps of a frozen backbone, which sees an unaugmented tile only once; else None."""
    if model.target_encoder is None or options.backbone_lr_scale != 0 or options.augment:
        return None
    model.target_encoder.backbone.eval()
    return BackboneMaps(model.target_encoder.to(device), device)


def _mean_squared_error(model: Any, train: LabelledSections, *_: object) -> Objective:
    return StNetObjective(model)


def _section_mean_squared_error(model: Any, train: LabelledSections, *_: object) -> Objective:
    return SlideObjective(model, train)


def _hist2st(model: Any, train: LabelledSections, *_: object) -> Objective:
    return Hist2StObjective(model, model.config, train)


def _egn(model: Any, train: LabelledSections, *_: object) -> Objective:
    return EgnObjective(model, model.config, train)


def _bleep(model: Any, train: LabelledSections, *_: object) -> Objective:
    return BleepObjective(model, model.config.temperature)


STARTS: Final[dict[str, Start]] = {
    "near_mean": start_near_mean,
    "triplex": start_triplex,
    "st_net": start_st_net,
    "bleep": start_bleep,
}
OBJECTIVES: Final[dict[str, MakeObjective]] = {
    "mean_squared_error": _mean_squared_error,
    "section_mean_squared_error": _section_mean_squared_error,
    "triplex": _triplex,
    "hist2st": _hist2st,
    "egn": _egn,
    "bleep": _bleep,
}
SAMPLERS: Final[dict[str, MakeSampler]] = {"spots": _spots, "whole_sections": _whole_sections}
SCORES: Final[dict[str, Score]] = {
    "correlation": correlation_score,
    "contrastive": contrastive_score,
}
