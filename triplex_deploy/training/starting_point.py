"""Where training starts from, beyond the random weights of a seed.

The trained trunk starts from the frozen one where both are of one architecture (MODELS 1.4). A
projection of features starts as their principal components, unwhitened, so that what varies most in
tissue leads from the first step. Heads start near the mean label, so that no step is spent on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.models import Triplex
from triplex_deploy.models.tile_encoder_weights import TileEncoderWeights
from triplex_deploy.training.prepared import PreparedSection

logger = logging.getLogger(__name__)

SAMPLED_TILES: Final = 4096
TOKEN_RMS: Final = 0.5
"""Root mean square of the projected features over training tiles."""
HEAD_GAIN: Final = 0.1
"""What the heads' random weights are multiplied by."""


def set_starting_point(
    model: Triplex,
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    tile_encoder: TileEncoderWeights,
    seed: int,
) -> None:
    """Initialise ``model`` in place from what it will be fitted on."""
    _start_trunk(model, tile_encoder)
    projections = [layer for layer in _projections(model, tile_encoder.kind) if layer is not None]
    if projections:
        components = principal_components(sections, projections[0].out_features, seed)
        for layer in projections:
            _start_projection(layer, *components)
    mean = torch.from_numpy(np.concatenate(labels).mean(0))
    with torch.no_grad():
        for name in ("expression_head", "target_head", "neighbor_head", "global_head"):
            head = getattr(model, name)
            if head is not None:
                head.weight.mul_(HEAD_GAIN)
                head.bias.copy_(mean)


def principal_components(
    sections: Sequence[PreparedSection], count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean (F,) of the sections' tile features and their leading components (at most count, F).

    The components are orthogonal and of one length, which makes projected features of training
    tiles ``TOKEN_RMS`` in size.
    """
    features = np.concatenate([np.asarray(one.features) for one in sections])
    chosen = np.random.default_rng(seed).permutation(len(features))[:SAMPLED_TILES]
    sample = torch.from_numpy(features[np.sort(chosen)]).double()
    mean = sample.mean(0)
    _, sizes, components = torch.linalg.svd(sample - mean, full_matrices=False)
    kept = sizes[:count]
    rms = float((kept.square().sum() / (len(sample) * count)).sqrt())
    gain = TOKEN_RMS / rms if rms > 0 else 1.0
    return mean.float(), (gain * components[:count]).float()


def _start_trunk(model: Triplex, tile_encoder: TileEncoderWeights) -> None:
    if model.target_encoder is None:
        return
    if tile_encoder.kind == model.config.target_trunk:
        model.target_encoder.trunk.load_state_dict(dict(tile_encoder.state_dict))
        logger.info("target trunk: starts from the frozen tile encoder's weights")
    else:
        logger.warning(
            "target trunk: %s starts from random weights, since the tile encoder is %s",
            *(model.config.target_trunk, tile_encoder.kind),
        )


def _projections(model: Triplex, encoder_kind: str) -> list[nn.Linear | None]:
    """The layers that project the frozen features, or a map of the same trunk."""
    layers: list[nn.Module | None] = []
    for encoder in (model.neighbor_encoder, model.global_encoder):
        layers.append(None if encoder is None else encoder.projection)
    if model.target_encoder is not None and encoder_kind == model.config.target_trunk:
        layers.append(model.target_encoder.projection)
    return [layer if isinstance(layer, nn.Linear) else None for layer in layers]


def _start_projection(layer: nn.Linear, mean: Tensor, components: Tensor) -> None:
    """Rows beyond the components, which few tiles leave, keep their random start."""
    count = len(components)
    with torch.no_grad():
        layer.weight[:count].copy_(components)
        layer.bias[:count].copy_(-components @ mean)
