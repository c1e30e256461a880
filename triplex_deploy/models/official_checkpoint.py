"""A published TRIPLEX checkpoint as our configuration and weights, or the reason why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.lightning_file import load_state_dict
from triplex_deploy.models.official import Layout, State, triplex_state, without_prefix
from triplex_deploy.models.official_config import config_of, our_names
from triplex_deploy.models.official_keys import official_key
from triplex_deploy.models.triplex import Triplex

_SHOWN: Final = 20


@dataclass(frozen=True)
class OfficialModel:
    """What a published file holds, in our terms; ``inferred`` options were in no settings."""

    config: ModelConfig
    state_dict: dict[str, Tensor]
    inferred: dict[str, Any]


def read_official(path: str | Path, layout: Layout, settings: Mapping[str, Any]) -> OfficialModel:
    """Read a Lightning checkpoint of the published code, of 2024 or 2025.

    ``settings`` are options of ``ModelConfig`` or the published names of them. Raises
    ``CheckpointError`` with the missing and the unexpected keys where the weights do not fit, and
    ``ConfigError`` for settings that are unknown, absent, or contradict them.
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
    """Compare keys and sizes with those of the configured model, in the published names."""
    with torch.device("meta"):  # shapes without memory or initialisation
        expected = Triplex(config).state_dict()
    sizes = {official_key(key, layout): value.numel() for key, value in expected.items()}
    odd = {
        "missing keys": [key for key in sizes if key not in official],
        "unexpected keys": [key for key in official if key not in sizes],
        "wrong shapes": [
            f"{key} {tuple(official[key].shape)}"
            for key, size in sizes.items()
            if key in official and official[key].numel() != size
        ],
    }
    found = [f"{what}: {_listed(keys)}" for what, keys in odd.items() if keys]
    if found:
        raise CheckpointError(
            f"does not fit the {layout} layout; {'; '.join(found)}; check --layout and --config"
        )


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _single(value: Tensor) -> Tensor:
    """Weights in float32, counters as they are."""
    return value.float() if value.is_floating_point() else value
