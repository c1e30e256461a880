"""PyTorch modules of TRIPLEX and the checkpoints that hold their weights."""

from triplex_deploy.models.build import build_model
from triplex_deploy.models.checkpoint import (
    Checkpoint,
    TileEncoderWeights,
    read_checkpoint,
    state_of,
    write_checkpoint,
)
from triplex_deploy.models.image_encoders import (
    TargetEncoder,
    TileEncoder,
    backbone_of_weights,
    load_backbone_weights,
)
from triplex_deploy.models.spot_model import SpotModel, assert_eval
from triplex_deploy.models.triplex import Triplex, TriplexOutput, fusion_loss

__all__ = [
    "Checkpoint",
    "SpotModel",
    "TargetEncoder",
    "TileEncoder",
    "TileEncoderWeights",
    "Triplex",
    "TriplexOutput",
    "assert_eval",
    "backbone_of_weights",
    "build_model",
    "fusion_loss",
    "load_backbone_weights",
    "read_checkpoint",
    "state_of",
    "write_checkpoint",
]
