"""Build an encoder from timm with weights of a file, and the graph from bytes to features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import BackendError, CheckpointError, ConfigError
from triplex_deploy.exporters.encoder_presets import EncoderDesign, Kernel, Pooling
from triplex_deploy.exporters.encoder_weights import named_as_in_timm, read_weights
from triplex_deploy.install import install_command
from triplex_deploy.models.torch_files import check_state

PARTS: Final = {"own": (), "cls": (0,), "mean": (1,), "cls+mean": (0, 1)}
"""Which of class token and mean of the patch tokens each pooling takes."""
_POOL: Final = "pool."


class Encoder(nn.Module):
    """A network of timm and its pooling: normalized images (B, 3, S, S) to features (B, F)."""

    network: Any

    def __init__(self, network: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.pool = (
            AttentionPool(int(self.network.num_features)) if pooling == "attention" else None
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.pooling == "own":
            pooled: Tensor = self.network(images)
            return pooled
        tokens: Tensor = self.network.forward_features(images)  # (B, T, D)
        if self.pool is not None:
            attended: Tensor = self.pool(tokens)
            return attended
        first = int(self.network.num_prefix_tokens)
        parts = (tokens[:, 0], tokens[:, first:].mean(1))
        return torch.cat([parts[i] for i in PARTS[self.pooling]], dim=1)


class AttentionPool(nn.Module):
    """CONCH's pool: one learned query attends to all tokens (B, T, D), giving (B, 512)."""

    def __init__(self, dim: int, width: int = 512, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, width))
        self.ln_q, self.ln_k = nn.LayerNorm(width), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(width, heads, kdim=dim, vdim=dim, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        context = self.ln_k(tokens)
        attn = self.attn
        biases = attn.in_proj_bias.chunk(3)
        weights = (attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight)
        given = (self.ln_q(self.query).unsqueeze(0), context, context)
        projected = (F.linear(*each) for each in zip(given, weights, biases, strict=True))
        query, key, value = (
            x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
            for x in projected
        )  # (B or 1, heads, 1 or T, 64)
        scores = query * attn.head_dim**-0.5 @ key.transpose(2, 3)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        pooled: Tensor = self.norm(attn.out_proj(attended)[:, 0])
        return pooled


@contextmanager
def plain_attention(encoder: nn.Module) -> Iterator[None]:
    """Let timm compute attention as two products and a softmax while the graph is traced.

    Runtimes fuse this form. PyTorch's fused operator would be traced with computed shapes.
    """
    fused: list[Any] = [part for part in encoder.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True


class Resize(nn.Module):
    """Resizes square images (B, 3, given, given) of values from 0 to 255, as Pillow does.

    Each side is one product with a constant matrix, which every runtime computes alike. After each
    of them values are kept between 0 and 255; unlike Pillow's they are not rounded.
    """

    matrix: Tensor

    def __init__(self, given: int, wanted: int, kernel: Kernel) -> None:
        super().__init__()
        weights = torch.from_numpy(resize_matrix(given, wanted, kernel))
        self.register_buffer("matrix", weights.to(torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        wide = (images @ self.matrix.T).clamp(0, 255)
        return (self.matrix @ wide).clamp(0, 255)


class EncoderGraph(nn.Module):
    """Takes uint8 RGB tiles (B, 224, 224, 3): resizes, normalizes and encodes them."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, encoder: Encoder, design: EncoderDesign) -> None:
        super().__init__()
        self.encoder = encoder
        same = design.input_px == TILE_PX
        self.resize = nn.Identity() if same else Resize(TILE_PX, design.input_px, design.kernel)
        self.register_buffer("pixel_mean", 255 * torch.tensor(design.mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", 255 * torch.tensor(design.std).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        images = self.resize(tiles.permute(0, 3, 1, 2).to(torch.float32))
        features: Tensor = self.encoder((images - self.pixel_mean) / self.pixel_std)
        return features


def resize_matrix(given: int, wanted: int, kernel: Kernel) -> NDArray[np.float64]:
    """Return the weights (wanted, given) with which ``given`` pixels become ``wanted``.

    When an image shrinks, the kernel is stretched, so that every pixel counts.
    """
    scale = given / wanted
    centers = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(given) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = _KERNELS[kernel](distance)
    normalized: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def _bicubic(x: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Return Keys' kernel of 1981 with the parameter that Pillow uses."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0.0)


_KERNELS: Final = {"bicubic": _bicubic, "bilinear": _bilinear}


def design_of_network(network: str, **given: Any) -> EncoderDesign:
    """Return the design of a network of timm, with the input that timm lists for it.

    The argument ``img_size`` counts before the listed size.

    Args:
        network: Name of the network, with or without the tag of its weights.
        given: Fields of ``EncoderDesign`` that replace what timm lists.

    Raises:
        BackendError: If timm cannot be imported.
        ConfigError: If timm does not have the network.
    """
    timm = import_timm()
    if not timm.is_model(network):
        close = ", ".join(timm.list_models(f"*{network.partition('.')[0]}*")[:5])
        raise ConfigError(
            f"timm network {network!r}: not in timm {timm.__version__}; close: {close}"
        )
    listed = timm.get_pretrained_cfg(network).to_dict()
    built_for = given.get("arguments", {}).get("img_size", listed["input_size"][-1])
    kernel = listed.get("interpolation", "bicubic")
    design = EncoderDesign(
        name=network,
        network=network,
        mean=tuple(listed["mean"]),
        std=tuple(listed["std"]),
        input_px=int(built_for),
        kernel=kernel if kernel in _KERNELS else "bicubic",
    )
    return replace(design, **given)


def build_encoder(design: EncoderDesign, state: Mapping[str, Tensor] | None = None) -> Encoder:
    """Return an encoder in evaluation mode and float32.

    Args:
        design: What to build.
        state: Weights under timm's names, as ``named_as_in_timm`` returns them; None for random
            weights.

    Raises:
        BackendError: If timm cannot be imported.
        CheckpointError: If keys or shapes do not fit; the message names them.
        ConfigError: If timm does not have the network, or the network not the pooling.
    """
    if state is None:
        return _assembled(design).eval().requires_grad_(False)
    encoder = _assembled(design, "meta")
    weights = _named_as_in_module(state)
    check_state(encoder, weights, f"weights of {design.name}")
    whole = {
        key: value.to(torch.float32) if value.is_floating_point() else value
        for key, value in weights.items()
    }
    if set(dict(encoder.named_buffers())) - set(whole):  # computed while building, not stored
        encoder = _assembled(design)
        encoder.load_state_dict(whole)
    else:
        encoder.load_state_dict(whole, assign=True)
    return encoder.eval().requires_grad_(False)


def load_encoder(design: EncoderDesign, path: Path) -> Encoder:
    """Return the encoder with the weights of a local file; raises what its parts raise."""
    state = named_as_in_timm(read_weights(path), design.layout, classifier_of(design))
    try:
        return build_encoder(design, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def classifier_of(design: EncoderDesign) -> tuple[str, ...]:
    """Return the names of the network's classifier, which an encoder does not have."""
    listed = import_timm().get_pretrained_cfg(design.network)
    names = getattr(listed, "classifier", None) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def feature_dim_of(encoder: Encoder, input_px: int) -> int:
    """Return the width F of the features.

    Raises:
        ConfigError: If the network does not take such images, or gives anything but one vector.
    """
    try:
        with torch.inference_mode():
            features = encoder(torch.zeros(1, 3, input_px, input_px))
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"timm network: does not take images of {input_px} px ({str(error).splitlines()[0]}); "
            f"pass --input-px, or --timm-arg img_size={input_px}"
        ) from error
    if features.ndim != 2:
        raise ConfigError(
            f"timm network: gives {tuple(features.shape)} per image; choose how to pool with --pool"
        )
    return int(features.shape[1])


def reference_images(tiles: NDArray[np.uint8], design: EncoderDesign) -> Tensor:
    """Return tiles (B, 224, 224, 3) as the network takes them, with PyTorch's own operators.

    ``EncoderGraph`` is not used, so that a mistake in it makes the comparison fail.
    """
    images = torch.from_numpy(tiles.transpose(0, 3, 1, 2).astype(np.float32))
    if design.input_px != TILE_PX:
        for size in ((TILE_PX, design.input_px), (design.input_px, design.input_px)):
            images = F.interpolate(images, size, mode=design.kernel, antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (design.mean, design.std))
    return (images / 255 - mean) / std


def import_timm() -> Any:
    """Import timm.

    Raises:
        BackendError: If it or a library that it needs cannot be imported.
    """
    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise BackendError(
            f"timm cannot be imported ({error}); run `{install_command('encoders')}`"
        ) from error
    except RuntimeError as error:  # a torchvision that was built for another torch
        raise BackendError(
            f"timm cannot be imported ({str(error).splitlines()[0]}); install the torchvision that "
            f"belongs to torch {torch.__version__}"
        ) from error
    return timm


def _assembled(design: EncoderDesign, device: str = "cpu") -> Encoder:
    timm = import_timm()
    if not timm.is_model(design.network):
        raise ConfigError(f"timm network {design.network!r}: not in timm {timm.__version__}")
    arguments = dict(design.arguments)
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = getattr(timm.layers, arguments["mlp_layer"])
    try:
        with torch.device(device):
            network = timm.create_model(
                design.network, pretrained=False, num_classes=0, **arguments
            )
            encoder = Encoder(network, design.pooling)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"timm network {design.network} with {dict(design.arguments)}: {error}; correct the "
            "arguments"
        ) from error
    if design.pooling != "own" and not hasattr(network, "num_prefix_tokens"):
        raise ConfigError(f"timm network {design.network}: has no tokens; leave out --pool")
    return encoder


def _named_as_in_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of ``Encoder``'s parameters."""
    return {
        key if key.startswith(_POOL) else f"network.{key}": value for key, value in state.items()
    }
