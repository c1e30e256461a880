"""Whole published state dicts: every key is converted, and no other key is accepted."""

import dataclasses
from functools import partial

import pytest
import torch

from tests.published import published_keys
from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.models.published.keys import triplex_state
from triplex_deploy.models.torch_files import check_state
from triplex_deploy.models.triplex import Triplex

CONFIG = ModelConfig(
    n_genes=37,
    fusion_depth=1,
    fusion_heads=4,
    fusion_mlp_ratio=1.0,
    global_depth=2,
    global_heads=8,
    global_mlp_ratio=1.0,
    neighbor_depth=1,
    neighbor_heads=4,
    neighbor_mlp_ratio=1.0,
)
REWRITE = dataclasses.replace(CONFIG, apeg_residual=False, target_projection=True)


@pytest.fixture
def official(shared_data):
    return partial(published_keys, shared_data)


def meta_model(config):
    with torch.device("meta"):
        return Triplex(config)


def test_2024_checkpoint_fits_key_by_key(official):
    state = official("2024")
    converted = triplex_state(state, CONFIG, "2024")
    assert len(converted) == len(state)
    check_state(meta_model(CONFIG), converted, "converted")


def test_2025_checkpoint_fits_key_by_key(official):
    state = {f"model.{key}": value for key, value in official("2025").items()}
    converted = triplex_state(state, REWRITE, "2025")
    assert len(converted) == len(state)
    check_state(meta_model(REWRITE), converted, "converted")


def test_checkpoint_of_the_other_layout_is_refused(official):
    with pytest.raises(CheckpointError, match=r"pos_layer\.proj\.bias.*check --layout"):
        triplex_state(official("2024"), REWRITE, "2025")


@pytest.mark.parametrize(
    "key",
    [
        "cls_token",
        "decoder.weight",
        "target_encoder.9.weight",
        "neighbor_encoder.layer.layers.0.0.fn.to_out.1.weight",
        "neighbor_encoder.layer.layers.0.2.norm.weight",
        "global_encoder.layer1.layers.1.0.norm.weight",
        "global_encoder.pos_layer.proj2.weight",
        "fusion_encoder.pos_embedding",
    ],
)
def test_unknown_key_is_named(official, key):
    state = official("2024") | {key: torch.empty(512, device="meta")}
    with pytest.raises(CheckpointError) as refusal:
        triplex_state(state, CONFIG, "2024")
    part, _, rest = key.partition(".")
    assert f"{part}: unexpected or missing keys: {rest}" in str(refusal.value)


@pytest.mark.parametrize("option", ["apeg_residual", "target_projection"])
def test_option_of_the_other_layout_is_refused(official, option):
    mixed = dataclasses.replace(CONFIG, **{option: getattr(REWRITE, option)})
    with pytest.raises(ConfigError, match=rf"{option}=.* set it to {getattr(CONFIG, option)}"):
        triplex_state(official("2024"), mixed, "2024")
