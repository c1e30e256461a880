"""The frozen tile encoder as a checkpoint carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TRUNK_WIDTH
from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.image_encoders import TileEncoder, make_trunk
from triplex_deploy.models.strict_state import check_state, load_strictly

ONNX: Final = "onnx"
KEYS: Final = frozenset({"name", "kind", "feature_dim", "mean", "std", "state_dict", "onnx"})


@dataclass(frozen=True)
class TileEncoderWeights:
    """The ``state_dict`` of a trunk of ours, or, of kind ``onnx``, the bytes of that file.

    ``mean`` and ``std`` normalise RGB in [0, 1] for an ONNX file that takes float images. Weights
    that do not fit their kind raise ``CheckpointError``.
    """

    name: str
    kind: str = "resnet18"
    state_dict: Mapping[str, Tensor] = field(default_factory=dict)
    onnx: bytes = b""
    feature_dim: int = 512
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD

    def __post_init__(self) -> None:
        if self.kind == ONNX:
            if not self.onnx:
                raise CheckpointError("tile_encoder: the ONNX file is empty; prepare again")
            return
        if self.kind not in TRUNK_WIDTH:
            raise CheckpointError(
                f"tile_encoder: kind {self.kind!r}; known: {', '.join((*TRUNK_WIDTH, ONNX))}"
            )
        if self.feature_dim != TRUNK_WIDTH[self.kind]:
            raise CheckpointError(
                f"tile_encoder: {self.kind} gives {TRUNK_WIDTH[self.kind]} features, "
                f"not {self.feature_dim}; write the checkpoint again"
            )
        with torch.device("meta"):  # shapes without memory or initialisation
            trunk = make_trunk(self.kind)
        check_state(trunk, self.state_dict, "tile_encoder")

    def build(self) -> TileEncoder:
        """The trunk with its weights, in evaluation mode and without gradients."""
        if self.kind == ONNX:
            raise CheckpointError(f"tile_encoder {self.name}: is an ONNX file, not one of ours")
        encoder = TileEncoder(self.kind)
        load_strictly(encoder.trunk, self.state_dict, "tile_encoder")
        return encoder.eval().requires_grad_(False)

    def facts(self) -> dict[str, Any]:
        """What it is, without the weights, as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "feature_dim": self.feature_dim,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def to_content(self) -> dict[str, Any]:
        """The checkpoint's section: plain values and tensors."""
        stored = torch.frombuffer(bytearray(self.onnx), dtype=torch.uint8) if self.onnx else None
        return {**self.facts(), "state_dict": dict(self.state_dict), "onnx": stored}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> TileEncoderWeights:
        """Read what ``to_content`` gave; ``CheckpointError`` for another form."""
        odd = sorted(str(key) for key in KEYS ^ set(content))
        if odd:
            raise CheckpointError(
                f"tile_encoder: missing or unknown keys: {', '.join(odd)}; "
                "write the checkpoint again"
            )
        try:
            onnx = content["onnx"]
            return cls(
                name=str(content["name"]),
                kind=str(content["kind"]),
                state_dict=dict(content["state_dict"]),
                onnx=b"" if onnx is None else onnx.numpy().tobytes(),
                feature_dim=int(content["feature_dim"]),
                mean=tuple(map(float, content["mean"])),
                std=tuple(map(float, content["std"])),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"tile_encoder: {error}; write the checkpoint again") from error
