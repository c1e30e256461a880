"""The convolutional part of a model, which may start from other weights, or stay as they are."""

from __future__ import annotations

from torch import nn

from triplex_deploy.models import SpotModel


def image_trunk(model: SpotModel) -> nn.Module | None:
    """The convolutional trunk that sees the spot's own tile; None for models without one."""
    for owner in (model, getattr(model, "target_encoder", None)):
        trunk = getattr(owner, "trunk", None)
        if isinstance(trunk, nn.Module):
            return trunk
    return None


def freeze_trunk(model: SpotModel) -> None:
    """Take the trunk out of training, if there is one."""
    trunk = image_trunk(model)
    if trunk is not None:
        trunk.requires_grad_(False)


def rest_frozen_trunk(model: SpotModel) -> None:
    """Keep a frozen trunk in evaluation mode, so that its batch statistics stay too."""
    trunk = image_trunk(model)
    if trunk is not None and not any(p.requires_grad for p in trunk.parameters()):
        trunk.eval()
