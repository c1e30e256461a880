"""Read a local file of encoder weights, and give its tensors the names of timm's network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from triplex_deploy.errors import CheckpointError
from triplex_deploy.exporters.encoder_presets import Layout
from triplex_deploy.models.torch_files import load_state_dict

State = Mapping[str, Tensor]


def read_weights(path: Path) -> State:
    """Return the tensors of a ``.safetensors`` file or of a file of ``torch.save``.

    Nothing in the file is run, and nothing is downloaded.

    Raises:
        CheckpointError: If the file is missing or damaged, or holds more than tensors.
        ModuleNotFoundError: If the package ``safetensors`` is needed and not installed.
    """
    if path.suffix.lower() != ".safetensors":
        return load_state_dict(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; pass the path of the weights")
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download or copy it again"
        ) from error
    return state


def named_as_in_timm(state: State, layout: Layout, unused: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the tensors that an encoder needs, under the names of timm's network.

    Those of CONCH's pool begin with ``pool.``.

    Args:
        state: Tensors of the file, by name.
        layout: The names in the file.
        unused: First parts of names in timm's layout that the encoder does not need, such as
            ``head`` of a classifier.

    Raises:
        CheckpointError: If a tensor that another is made of is missing.
    """
    named = _READERS[layout](_without_prefix(state, "module."))
    dropped = tuple(f"{name}." for name in unused)
    return {key: value for key, value in named.items() if not key.startswith(dropped)}


def _without_prefix(state: State, prefix: str) -> State:
    """Return the state without a prefix that every name has, as parallel training leaves it."""
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _of_timm(state: State) -> dict[str, Tensor]:
    return dict(state)


def _of_conch(state: State) -> dict[str, Tensor]:
    """Return the image tower of CONCH up to the pooled features; text and captions are left out."""
    named = {}
    for key, value in state.items():
        for prefix, ours in _CONCH.items():
            if key.startswith(prefix):
                named[ours + key.removeprefix(prefix)] = value
    return named


_CONCH: Final = {
    "visual.trunk.": "",
    "visual.attn_pool_contrast.": "pool.",
    "visual.ln_contrast.": "pool.norm.",
}


def _of_dinov2(state: State) -> dict[str, Tensor]:
    """Return weights of DINOv2, written by Meta's code or by transformers.

    Where there are registers, timm adds no position to the class token, so that its position is
    added here.
    """
    if "embeddings.cls_token" in state:
        state = _from_transformers(state)
    named = {
        _W12.sub("mlp.fc1.", _W3.sub("mlp.fc2.", key)): value
        for key, value in state.items()
        if key != "mask_token"
    }
    if "register_tokens" in named and "pos_embed" in named and "cls_token" in named:
        position = named["pos_embed"]
        named["reg_token"] = named.pop("register_tokens")
        named["cls_token"] = named["cls_token"] + position[:, :1]
        named["pos_embed"] = position[:, 1:]
    return named


_W12, _W3 = re.compile(r"mlp\.w12\."), re.compile(r"mlp\.w3\.")

_TRANSFORMERS: Final = (
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.fc2."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
)
"""Names of transformers' DINOv2 and of Meta's; the first that fits counts."""
_PROJECTION: Final = re.compile(
    r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)"
)


def _from_transformers(state: State) -> dict[str, Tensor]:
    """Return Meta's names, with queries, keys and values in one tensor."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        if found := _PROJECTION.fullmatch(key):
            parts = [key.replace("query", part) for part in ("query", "key", "value")]
            missing = [part for part in parts if part not in state]
            if missing:
                raise CheckpointError(
                    f"weights: missing keys: {', '.join(missing)}; get them whole"
                )
            joined = torch.cat([state[part] for part in parts])
            named[f"blocks.{found[1]}.attn.qkv.{found[2]}"] = joined
        elif ".attention.attention." not in key:
            named[_metas_name(key)] = value
    return named


def _metas_name(key: str) -> str:
    for pattern, replacement in _TRANSFORMERS:
        name, found = re.subn(f"^{pattern}", replacement, key)
        if found:
            return name
    return key


_READERS: Final[Mapping[Layout, Callable[[State], dict[str, Tensor]]]] = {
    "timm": _of_timm,
    "dinov2": _of_dinov2,
    "conch": _of_conch,
}
