"""Map the parameter names of the published TRIPLEX code to ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from torch import Tensor

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError, ConfigError

Layout = Literal["2024", "2025"]
"""Year of the published code, which decides the names and the order of its weights."""
State = Mapping[str, Tensor]
"""Weights by parameter name."""

ATTENTION_KEYS: Final = {
    "attention_biases": "bias.table",
    "to_qkv.weight": "qkv.weight",
    "to_q.weight": "query.weight",
    "to_kv.weight": "key_value.weight",
    "to_out.0.weight": "out.weight",
    "to_out.0.bias": "out.bias",
}
BLOCK_KEYS: Final = {
    "0.norm.weight": "attention_norm.weight",
    "0.norm.bias": "attention_norm.bias",
    **{f"0.fn.{theirs}": f"attention.{ours}" for theirs, ours in ATTENTION_KEYS.items()},
    "1.norm.weight": "mlp_norm.weight",
    "1.norm.bias": "mlp_norm.bias",
    "1.fn.net.0.weight": "mlp.expand.weight",
    "1.fn.net.0.bias": "mlp.expand.bias",
    "1.fn.net.3.weight": "mlp.contract.weight",
    "1.fn.net.3.bias": "mlp.contract.bias",
}
_LAYER: Final = re.compile(r"(layer|layer1|layer2|fusion_layer)\.layers\.(\d+)\.(.+)")
_NORM: Final = ("norm.weight", "norm.bias")
BACKBONE_STAGES: Final = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
HEADS: Final = {
    "fc": "expression_head",
    "fc_target": "target_head",
    "fc_neighbor": "neighbor_head",
    "fc_global": "global_head",
}


def triplex_state(official: State, config: ModelConfig, layout: Layout) -> dict[str, Tensor]:
    """Return the weights of ``Triplex(config)`` from a complete published state dict.

    Raises:
        CheckpointError: A key is missing or unknown.
        ConfigError: The layout's code does not have an option of ``config``.
    """
    check_supported(config, layout)
    converted: dict[str, Tensor] = {}
    for part, state in _by_part(without_prefix(official)).items():
        try:
            ours, renamed = _convert_part(part, state, layout)
        except CheckpointError as error:
            raise CheckpointError(f"official {layout} checkpoint, {part}: {error}") from error
        converted.update({f"{ours}.{key}": value for key, value in renamed.items()})
    return converted


def target_encoder_state(official: State) -> dict[str, Tensor]:
    """Return the weights of ``TargetEncoder`` from the published sequence of ResNet18 stages."""
    converted = {}
    for key, value in official.items():
        stage, _, rest = key.partition(".")
        if stage not in BACKBONE_STAGES:
            raise _unknown([key])
        converted[f"backbone.{BACKBONE_STAGES[stage]}.{rest}"] = value
    return converted


def encoder_state(official: State) -> dict[str, Tensor]:
    """Return the weights of ``NeighborEncoder`` or ``FusionEncoder``, equal in both layouts."""
    converted: dict[str, Tensor] = {}
    for key, value in official.items():
        ours = key if key in _NORM else _layer_key(key)
        if ours is None or ours in converted:
            raise _unknown([key])
        converted[ours] = value
    return converted


def global_encoder_state(official: State, layout: Layout) -> dict[str, Tensor]:
    """Return the weights of ``GlobalEncoder``, with its position encoding if there is one."""
    position = {key: value for key, value in official.items() if key.startswith("pos_layer.")}
    layers = {key: value for key, value in official.items() if key not in position}
    converted = encoder_state(layers)
    if layout == "2025":
        for key in converted:
            if key.endswith("attention.qkv.weight"):
                converted[key] = contiguous_qkv(converted[key])
    if position:
        bare = {key.removeprefix("pos_layer."): value for key, value in position.items()}
        apeg = apeg_state(bare, layout)
        converted.update({f"apeg.{key}": value for key, value in apeg.items()})
    return converted


def apeg_state(official: State, layout: Layout) -> dict[str, Tensor]:
    """Return the weights of ``Apeg`` from a published depthwise convolution.

    The last axis of the kernel runs along the first coordinate of a spot. This is the row in 2024,
    where positions are (y, x), and the column in 2025, where they are (x, y).
    """
    name = "proj1" if layout == "2024" else "proj"
    known = (f"{name}.weight", f"{name}.bias")
    if set(official) != set(known):
        raise _unknown(f"pos_layer.{key}" for key in sorted(set(official) ^ set(known)))
    kernel = official[f"{name}.weight"].squeeze(1)  # (D, k, k)
    by_row_and_col = kernel.transpose(1, 2) if layout == "2024" else kernel
    return {"weight": by_row_and_col.flatten(1).T.contiguous(), "bias": official[f"{name}.bias"]}


def contiguous_qkv(weight: Tensor) -> Tensor:
    """Return the qkv weight (3 D, D) of the 2025 global encoder in the order q, k, v.

    The rows of the published weight alternate between q, k and v.
    """
    rows, dim = weight.shape
    return weight.reshape(rows // 3, 3, dim).transpose(0, 1).reshape(rows, dim)


def _convert_part(part: str, state: State, layout: Layout) -> tuple[str, State]:
    if part in HEADS:
        return HEADS[part], state
    if part == "target_encoder":
        return part, target_encoder_state(state)
    if part == "target_linear" and layout == "2025":
        return "target_encoder", {f"projection.{key}": value for key, value in state.items()}
    if part == "neighbor_encoder":
        return part, encoder_state(state)
    if part == "global_encoder":
        return part, global_encoder_state(state, layout)
    if part == "fusion_encoder":
        return "fusion", encoder_state(state)
    raise _unknown(state)


def _layer_key(key: str) -> str | None:
    match = _LAYER.fullmatch(key)
    if match is None or match[3] not in BLOCK_KEYS:
        return None
    index = int(match[2]) + (match[1] == "layer2")  # layer1 holds only the first block
    return f"layers.{index}.{BLOCK_KEYS[match[3]]}"


def check_supported(config: ModelConfig, layout: Layout) -> None:
    """Raise ``ConfigError`` for an option that the layout's code does not have."""
    if config.target_projection != (layout == "2025"):
        raise ConfigError(
            f"target_projection={config.target_projection}: the {layout} code has "
            f"{'no' if layout == '2024' else 'a'} projection; set it to {layout == '2025'}"
        )
    if config.position == "apeg" and config.apeg_residual != (layout == "2024"):
        raise ConfigError(
            f"apeg_residual={config.apeg_residual}: the {layout} code has "
            f"{'a' if layout == '2024' else 'no'} residual; set it to {layout == '2024'}"
        )


def without_prefix(official: State) -> State:
    """Return weights without the prefix ``model.``, which the 2025 code puts before every key."""
    if all(key.startswith("model.") for key in official):
        return {key.removeprefix("model."): value for key, value in official.items()}
    return official


def _by_part(official: State) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in official.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


def _unknown(keys: Iterable[str]) -> CheckpointError:
    listed = list(keys)
    return CheckpointError(
        f"unexpected or missing keys: {', '.join(listed[:5])}"
        f"{f' and {len(listed) - 5} more' if len(listed) > 5 else ''}; check --layout and --config"
    )


_BLOCK: Final = {ours: theirs for theirs, ours in BLOCK_KEYS.items()}
_STAGE: Final = {ours: theirs for theirs, ours in BACKBONE_STAGES.items()}
_HEAD: Final = {ours: theirs for theirs, ours in HEADS.items()}
_LAYERS: Final = {
    "neighbor_encoder": "neighbor_encoder.layer.layers",
    "fusion": "fusion_encoder.fusion_layer.layers",
}


def official_key(ours: str, layout: Layout) -> str:
    """Return the published name of a key of ``Triplex.state_dict()``."""
    part, _, rest = ours.partition(".")
    if part in _HEAD:
        return f"{_HEAD[part]}.{rest}"
    if part == "target_encoder":
        return _target_key(rest)
    if rest.startswith("layers."):
        return _published_layer_key(part, rest)
    if rest.startswith("apeg."):
        layer = "proj1" if layout == "2024" else "proj"
        return f"global_encoder.pos_layer.{layer}.{rest.removeprefix('apeg.')}"
    return f"{'fusion_encoder' if part == 'fusion' else part}.{rest}"  # the final norm


def _target_key(rest: str) -> str:
    if rest.startswith("projection."):
        return f"target_linear.{rest.removeprefix('projection.')}"
    stage, _, inner = rest.removeprefix("backbone.").partition(".")
    return f"target_encoder.{_STAGE[stage]}.{inner}"


def _published_layer_key(part: str, rest: str) -> str:
    _, number, inner = rest.split(".", 2)
    if part != "global_encoder":
        return f"{_LAYERS[part]}.{number}.{_BLOCK[inner]}"
    if number == "0":
        return f"global_encoder.layer1.layers.0.{_BLOCK[inner]}"
    return f"global_encoder.layer2.layers.{int(number) - 1}.{_BLOCK[inner]}"
