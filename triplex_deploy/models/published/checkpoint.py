"""Read a checkpoint of the published TRIPLEX code with its YAML configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.files.escape import first_of
from triplex_deploy.models.build import shapes_only
from triplex_deploy.models.published.keys import (
    Layout,
    State,
    official_key,
    triplex_state,
    without_prefix,
)
from triplex_deploy.models.torch_files import load_state_dict
from triplex_deploy.models.triplex import Triplex

_SHOWN: Final = 20
"""Most keys that an error lists."""


@dataclass(frozen=True)
class OfficialModel:
    """Holds a published model in the terms of this package."""

    config: ModelConfig
    """Configuration of the model."""
    state_dict: dict[str, Tensor]
    """Weights under the parameter names of ``Triplex``."""
    inferred: dict[str, Any]
    """Options that follow from the weights or the layout and were not in the settings."""


def read_official(path: str | Path, layout: Layout, settings: Mapping[str, Any]) -> OfficialModel:
    """Read a Lightning checkpoint of the published code.

    Args:
        path: The checkpoint.
        layout: Year of the code that wrote it, ``"2024"`` or ``"2025"``.
        settings: Options of ``ModelConfig``, under our names or the published names.

    Raises:
        CheckpointError: The weights do not fit; the message names missing and unexpected keys.
        ConfigError: A setting is unknown, missing, or contradicts the weights.
    """
    official, given = without_prefix(load_state_dict(path)), our_names(settings)
    try:
        config, inferred = config_of(official, layout, given)
        _check_fit(official, config, layout)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    state = triplex_state({key: _single(value) for key, value in official.items()}, config, layout)
    return OfficialModel(config, state, inferred)


def _check_fit(official: State, config: ModelConfig, layout: Layout) -> None:
    """Refuse keys and sizes that differ from those of the model, in the published names."""
    with shapes_only():
        expected = Triplex(config).state_dict()
    sizes = {official_key(key, layout): value.numel() for key, value in expected.items()}
    misfits = {
        "missing keys": [key for key in sizes if key not in official],
        "unexpected keys": [key for key in official if key not in sizes],
        "wrong shapes": [
            f"{key} {tuple(official[key].shape)}"
            for key, size in sizes.items()
            if key in official and official[key].numel() != size
        ],
    }
    found = [f"{what}: {first_of(keys, _SHOWN)}" for what, keys in misfits.items() if keys]
    if found:
        raise CheckpointError(
            f"does not fit the {layout} layout; {'; '.join(found)}; check --layout and --config"
        )


def _single(value: Tensor) -> Tensor:
    """Return weights in float32, and counters as they are."""
    return value.float() if value.is_floating_point() else value


LAYOUT_OPTIONS: Final[Mapping[Layout, Mapping[str, Any]]] = {
    "2024": {"target_projection": False, "apeg_residual": True, "nonnegative": False},
    "2025": {"target_projection": True, "apeg_residual": False, "nonnegative": True},
}
"""Options that the code of a layout always has."""
HIDDEN: Final = ("fusion_heads", "global_heads")
"""Options that change the result and cannot be seen in the weights."""

_NUMBERED: Final = re.compile(r"(depth|num_heads|mlp_ratio|dropout)([123])")
_PART: Final = {"1": "fusion", "2": "global", "3": "neighbor"}
_ALIASES: Final = {"num_genes": "n_genes", "num_outputs": "n_genes", "kernel_size": "apeg_kernel"}
_LAYERS: Final = {
    "fusion": ("fusion_encoder.fusion_layer",),
    "global": ("global_encoder.layer1", "global_encoder.layer2"),
    "neighbor": ("neighbor_encoder.layer",),
}


def our_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under our names, such as ``fusion_depth`` for the published ``depth1``.

    In a published file only the section ``MODEL`` is read, and in it the keys that are options of
    ``ModelConfig``.
    """
    section = values.get("MODEL")
    published = section if isinstance(section, Mapping) else None
    renamed = {_our_name(key): value for key, value in (published or values).items()}
    if published is None:
        return renamed
    known = ModelConfig().to_dict()
    return {key: value for key, value in renamed.items() if key in known}


def config_of(
    official: State, layout: Layout, given: Mapping[str, Any]
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the configuration of published weights, and the options that were not in ``given``.

    Args:
        official: Published weights, keys without prefix.
        layout: Year of the published code.
        given: Settings of the user, under our names.

    Raises:
        ConfigError: A setting contradicts the weights or the layout, or is needed and missing.
        CheckpointError: The weights are of another model.
    """
    known = {**LAYOUT_OPTIONS[layout], **_shown_by(official)}
    for key, value in known.items():
        if key in given and given[key] != value:
            raise ConfigError(
                f"{key}={given[key]}: the weights and the {layout} code have {value}; correct "
                "--config, or leave the key out"
            )
    absent = [key for key in HIDDEN if key not in given and key not in known]
    if absent:
        raise ConfigError(
            f"{', '.join(absent)}: cannot be seen in the weights; set them in --config"
        )
    inferred = {key: value for key, value in known.items() if key not in given}
    return ModelConfig.from_dict({**given, **known}), inferred


def _shown_by(official: State) -> dict[str, Any]:
    """Return the options that follow from the shapes of the weights."""
    genes, dim = _shape(official, "fc.weight")
    shown: dict[str, Any] = {"n_genes": genes, "embedding_dim": dim, "feature_dim": dim}
    for part, prefixes in _LAYERS.items():
        numbers = _layers(official, prefixes)
        hidden, _ = _shape(official, f"{prefixes[0]}.layers.0.1.fn.net.0.weight")
        shown[f"{part}_depth"], shown[f"{part}_mlp_ratio"] = len(numbers), _ratio(hidden, dim)
        if part != "neighbor" and not _has(official, f"{prefixes[0]}.layers.0.0.fn.to_out."):
            shown[f"{part}_heads"] = 1
    biases = f"{_LAYERS['neighbor'][0]}.layers.0.0.fn.attention_biases"
    shown["neighbor_heads"] = _shape(official, biases)[0]
    kernels = [
        key for key in official if re.fullmatch(r"global_encoder\.pos_layer\.proj1?\.weight", key)
    ]
    if kernels:
        shown["apeg_kernel"] = official[kernels[0]].shape[-1]
    shown["position"] = "apeg" if _has(official, "global_encoder.pos_layer.") else "none"
    return shown


def _ratio(hidden: int, dim: int) -> float:
    """Return the MLP ratio r for which int(dim * r) is ``hidden``."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _our_name(key: str) -> str:
    match = _NUMBERED.fullmatch(key)
    if match is not None:
        return f"{_PART[match[2]]}_{match[1].removeprefix('num_')}"
    return _ALIASES.get(key, key)


def _layers(official: State, prefixes: tuple[str, ...]) -> set[tuple[str, str]]:
    pattern = re.compile(rf"({'|'.join(map(re.escape, prefixes))})\.layers\.(\d+)\..*")
    matches = (pattern.fullmatch(key) for key in official)
    return {(match[1], match[2]) for match in matches if match}


def _shape(official: State, key: str) -> tuple[int, int]:
    value = official.get(key)
    if not isinstance(value, Tensor) or value.ndim != 2:
        raise CheckpointError(
            f"official weights: no matrix {key}; pass a TRIPLEX model of the published code"
        )
    rows, columns = value.shape
    return rows, columns


def _has(official: State, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in official)
