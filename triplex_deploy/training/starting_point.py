"""Initialize models before training, beyond the random weights of a seed.

The trained backbone starts from the weights of the frozen encoder if both have the same
architecture: docs/models.md, "Image backbones". A projection of features starts as their principal
components, not whitened, so that the features that vary most in tissue count most from the first
step. Heads start near the mean label, so that no step is spent on learning it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from triplex_deploy.contract import BleepConfig, StNetConfig
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.models import SpotModel, Triplex, load_backbone_weights
from triplex_deploy.models.bleep import Bleep
from triplex_deploy.models.checkpoint import TileEncoderWeights
from triplex_deploy.models.densenet import load_densenet_weights
from triplex_deploy.models.st_net import StNet
from triplex_deploy.models.torch_files import load_state_dict
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections, PreparedSection

logger = logging.getLogger(__name__)

SAMPLED_TILES: Final = 4096
"""Number of random tiles that principal components are computed from."""
TOKEN_RMS: Final = 0.5
"""Root mean square of the projected features over training tiles."""
HEAD_GAIN: Final = 0.1
"""Factor of the random weights of heads."""
Start = Callable[[Any, LabeledSections, TileEncoderWeights, TrainOptions], None]
"""Initializes a model in place from the training sections, the frozen encoder and the options."""


def start_triplex(
    model: Triplex,
    train: LabeledSections,
    tile_encoder: TileEncoderWeights,
    options: TrainOptions,
) -> None:
    """Initialize backbone, projections and heads of TRIPLEX and its parts."""
    if model.target_encoder is not None:
        kind = model.config.target_backbone
        _start_backbone(model.target_encoder.backbone, kind, tile_encoder, options)
    is_same = tile_encoder.kind == model.config.target_backbone and not options.backbone_weights
    projections = [layer for layer in _projections(model, is_same) if layer is not None]
    if projections:
        count = projections[0].out_features
        components = principal_components(train.sections, count, options.seed)
        for layer in projections:
            _start_projection(layer, *components)
    for name in ("expression_head", "target_head", "neighbor_head", "global_head"):
        head = getattr(model, name)
        if head is not None:
            _start_head(head, train)


def start_st_net(
    model: StNet, train: LabeledSections, tile_encoder: TileEncoderWeights, options: TrainOptions
) -> None:
    """Load DenseNet's weights from ``backbone_weights``, if set, and start the head."""
    assert isinstance(model.config, StNetConfig)
    if options.backbone_weights:
        _load_backbone(model.backbone, load_densenet_weights, options.backbone_weights)
    else:
        logger.warning(
            "image backbone: DenseNet starts from random weights; set backbone_weights to a file "
            "of ImageNet weights"
        )
    if model.config.start_from_mean:
        model.start_from_mean(torch.from_numpy(train.mean_label()))


def start_bleep(
    model: Bleep, train: LabeledSections, tile_encoder: TileEncoderWeights, options: TrainOptions
) -> None:
    """Initialize the backbone of BLEEP, which has no head."""
    assert isinstance(model.config, BleepConfig)
    _start_backbone(model.backbone, model.config.target_backbone, tile_encoder, options)


def start_near_mean(
    model: SpotModel,
    train: LabeledSections,
    tile_encoder: TileEncoderWeights,
    options: TrainOptions,
) -> None:
    """Initialize the last layer of a model without backbone to predict about the mean label."""
    if options.backbone_weights:
        raise ConfigError(
            f"backbone_weights: {model.config.model} has no image backbone; leave "
            "backbone_weights out"
        )
    last = [layer for layer in _head_of(model).modules() if isinstance(layer, nn.Linear)][-1]
    _start_head(last, train)


def principal_components(
    sections: Sequence[PreparedSection], count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the mean (F,) of tile features and their first principal components.

    The components (at most count, F) are orthogonal and equally long: the root mean square of the
    projected features of training tiles is ``TOKEN_RMS``.
    """
    features = np.concatenate([np.asarray(section.features) for section in sections])
    chosen = np.random.default_rng(seed).permutation(len(features))[:SAMPLED_TILES]
    sample = torch.from_numpy(features[np.sort(chosen)]).double()
    mean = sample.mean(0)
    _, sizes, components = torch.linalg.svd(sample - mean, full_matrices=False)
    kept = sizes[:count]
    rms = float((kept.square().sum() / (len(sample) * count)).sqrt())
    gain = TOKEN_RMS / rms if rms > 0 else 1.0
    return mean.float(), (gain * components[:count]).float()


def _start_backbone(
    backbone: Any, kind: str, tile_encoder: TileEncoderWeights, options: TrainOptions
) -> None:
    """Load the user's file, or the weights of a frozen encoder of the same architecture."""
    if options.backbone_weights:
        _load_backbone(backbone, load_backbone_weights, options.backbone_weights)
    elif tile_encoder.kind == kind:
        backbone.load_state_dict(dict(tile_encoder.state_dict))
        logger.info("target backbone: starts from the frozen tile encoder's weights")
    else:
        logger.warning(
            "target backbone: %s starts from random weights, since the tile encoder is %s",
            kind,
            tile_encoder.kind,
        )


def _load_backbone(
    backbone: Any, load: Callable[[Any, Mapping[str, Tensor]], None], path: str
) -> None:
    weights = load_state_dict(path)
    try:
        load(backbone, weights)
    except CheckpointError as error:
        raise CheckpointError(f"backbone_weights {path}: {error}") from error
    logger.info("image backbone: starts from %s", path)


def _head_of(model: SpotModel) -> nn.Module:
    for name in ("expression_head", "head"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise AssertionError(f"{model.config.model} has no head of a known name")


def _start_head(head: nn.Linear, train: LabeledSections) -> None:
    with torch.no_grad():
        head.weight.mul_(HEAD_GAIN)
        head.bias.copy_(torch.from_numpy(train.mean_label()))


def _projections(model: Triplex, is_same_backbone: bool) -> list[nn.Linear | None]:
    """Return the layers that project the frozen features, or a map of the same backbone."""
    layers: list[nn.Module | None] = []
    for encoder in (model.neighbor_encoder, model.global_encoder):
        layers.append(None if encoder is None else encoder.projection)
    if model.target_encoder is not None and is_same_backbone:
        layers.append(model.target_encoder.projection)
    return [layer if isinstance(layer, nn.Linear) else None for layer in layers]


def _start_projection(layer: nn.Linear, mean: Tensor, components: Tensor) -> None:
    """Set the rows of a projection; with few tiles, the last rows stay random."""
    count = len(components)
    with torch.no_grad():
        layer.weight[:count].copy_(components)
        layer.bias[:count].copy_(-components @ mean)
