"""How each family of models is trained: where it starts, its batches, its loss and its score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from triplex_deploy.contract import (
    BleepConfig,
    Config,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    ModelConfig,
    StNetConfig,
    graph_specs,
)
from triplex_deploy.errors import ConfigError
from triplex_deploy.models import Triplex
from triplex_deploy.training.batches import Sampler, SectionSampler, SpotSampler
from triplex_deploy.training.frozen_backbone import TrunkMaps
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
    """How the model of this configuration is trained."""
    return _RECIPES[type(config)]


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
    maps = _trunk_maps(model, options, device)
    return TriplexObjective(model, train.sections, maps, options.feature_dropout)


def _trunk_maps(model: Triplex, options: TrainOptions, device: torch.device) -> TrunkMaps | None:
    """A frozen trunk needs to see an unaugmented tile once; in evaluation it always is frozen."""
    if model.target_encoder is None or options.target_trunk_lr_scale != 0 or options.augment:
        return None
    model.target_encoder.trunk.eval()
    return TrunkMaps(model.target_encoder.to(device), device)


def _st_net(model: Any, train: LabelledSections, *_: object) -> Objective:
    return StNetObjective(model)


def _his_to_gene(model: Any, train: LabelledSections, *_: object) -> Objective:
    return SlideObjective(model, train)


def _hist2st(model: Any, train: LabelledSections, *_: object) -> Objective:
    return Hist2StObjective(model, model.config, train)


def _egn(model: Any, train: LabelledSections, *_: object) -> Objective:
    return EgnObjective(model, model.config, train)


def _bleep(model: Any, train: LabelledSections, *_: object) -> Objective:
    return BleepObjective(model, model.config.temperature)


_RECIPES: Final[dict[type[Config], Recipe]] = {
    ModelConfig: Recipe(start_triplex, _triplex, _spots, correlation_score, hides_features=True),
    StNetConfig: Recipe(start_st_net, _st_net, _spots, correlation_score),
    HisToGeneConfig: Recipe(start_near_mean, _his_to_gene, _whole_sections, correlation_score),
    Hist2StConfig: Recipe(start_near_mean, _hist2st, _whole_sections, correlation_score),
    EgnConfig: Recipe(start_near_mean, _egn, _spots, correlation_score),
    BleepConfig: Recipe(start_bleep, _bleep, _spots, contrastive_score),
}
