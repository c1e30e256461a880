"""A model's predictions of prepared sections, and how far they are from the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.expression import FoldMetrics, measure_fold, measure_slide
from triplex_deploy.models import Triplex, assert_eval
from triplex_deploy.training.images import CPU_TILES, normalise_tiles
from triplex_deploy.training.objective import section_index
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.trunk_maps import TrunkMaps

SPOTS_PER_BATCH = 128


@torch.inference_mode()
def predict_section(
    model: Triplex, one: PreparedSection, maps: TrunkMaps | None = None
) -> NDArray[np.float32]:
    """Expression (N, G) of a prepared section by a model in evaluation mode, on its device.

    ``maps`` of a frozen trunk save encoding the tiles.
    """
    assert_eval(model)
    device = next(model.parameters()).device
    table = torch.from_numpy(section_index(one, model.config)).to(device)
    global_tokens = model.encode_slide(torch.from_numpy(one.spot_features()).to(device), table)
    parts = []
    for begin in range(0, one.section.n_spots, SPOTS_PER_BATCH):
        rows = np.arange(begin, min(begin + SPOTS_PER_BATCH, one.section.n_spots))
        mask = torch.from_numpy(one.neighbor_mask[rows]).to(device)
        features = torch.from_numpy(one.neighbor_features(rows)).to(device)
        output = model.predict_from_tokens(
            None if global_tokens is None else global_tokens[begin : begin + len(rows)],
            _target_tokens(model, one, rows, maps, device),
            model.encode_neighbors(features, mask),
            mask,
        )
        parts.append(output.fusion.float().cpu().numpy())
    return np.concatenate(parts)


def measure_model(
    model: Triplex,
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    maps: TrunkMaps | None = None,
) -> FoldMetrics:
    """Compare the model's predictions of sections with their labels."""
    pairs = zip(sections, labels, strict=True)
    return measure_fold([measure_slide(y, predict_section(model, one, maps)) for one, y in pairs])


def measure_constant(
    constant: NDArray[np.float64], labels: Sequence[NDArray[np.float32]]
) -> FoldMetrics:
    """What predicting one value per gene everywhere would score."""
    return measure_fold([measure_slide(y, np.broadcast_to(constant, y.shape)) for y in labels])


def _target_tokens(
    model: Triplex,
    one: PreparedSection,
    rows: NDArray[np.int64],
    maps: TrunkMaps | None,
    device: torch.device,
) -> Tensor | None:
    encoder = model.target_encoder
    if encoder is None:
        return None
    tokens: Tensor
    if maps is None:
        tiles = torch.from_numpy(np.asarray(one.tiles[rows]))
        at_once = len(tiles) if device.type == "cuda" else CPU_TILES
        parts = [part.to(device) for part in torch.split(tiles, at_once)]
        tokens = torch.cat([encoder(normalise_tiles(part)) for part in parts])
    else:
        tokens = encoder.projection(maps.of(one)[torch.from_numpy(rows)].to(device, torch.float32))
    return tokens
