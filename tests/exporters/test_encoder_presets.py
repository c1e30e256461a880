"""Presets against what is published: names and shapes of weights, and what the network computes.

Files have random weights. Exports are cut to one block, because the full encoders take gigabytes.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.exporters.published_encoders import (
    PUBLISHED,
    SHAPES,
    conch_shapes,
    empty_state,
    meta_shapes,
    random_state,
    transformers_shapes,
)
from tests.exporters.timm_here import require_timm
from triplex_deploy.contract import TILES
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.exporters.encoder_export import open_encoder, write_encoder
from triplex_deploy.exporters.encoder_model import build_encoder, classifier_of, reference_images
from triplex_deploy.exporters.encoder_presets import PRESETS, EncoderDesign, preset_of
from triplex_deploy.exporters.encoder_weights import named_as_in_timm
from triplex_deploy.exporters.inputs import tiles
from triplex_deploy.models.torch_files import check_state

NAMES = list(PRESETS)
LIKE_OTHERS = ("uni2-h", "h-optimus-0", "h-optimus-1", "hibou-l")
"""Built of the same parts as smaller presets, whose export is tested anyway."""


@pytest.fixture(autouse=True)
def timm() -> Any:
    return require_timm()


def cut(name: str, depth: int = 1) -> EncoderDesign:
    """The preset with fewer blocks."""
    design = preset_of(name)
    return replace(design, arguments={**design.arguments, "depth": depth}, millions=None)


def some_tiles(count: int) -> np.ndarray:
    return tiles((count, 224, 224, 3), np.random.default_rng(3))


def test_every_preset_is_compared_with_its_publication() -> None:
    assert set(NAMES) == set(PUBLISHED)
    for preset in PRESETS.values():
        assert preset.license, preset.name
        assert preset.home, preset.name
        assert preset.sources, preset.name


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_of_the_whole_published_file_fit(name: str) -> None:
    """At full depth, without values."""
    design, size = preset_of(name), PUBLISHED[name]
    published = empty_state(SHAPES[name](size, size.depth))
    named = named_as_in_timm(published, design.layout, classifier_of(design))
    with torch.device("meta"):
        encoder = build_encoder(design, named)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    if design.millions is not None and design.millions >= 1000:
        assert round(weights / 1e9, 2) == design.millions / 1e3
    elif design.millions is not None:
        assert weights / 1e6 == pytest.approx(design.millions, rel=2e-3)


@pytest.mark.parametrize("name", ["hibou-b", "hibou-l"])
def test_both_published_files_of_hibou_are_one_encoder(name: str) -> None:
    size = PUBLISHED[name]
    theirs = random_state(meta_shapes(replace(size, dim=8, expanded=16, hidden=8), 1))
    same = {
        "embeddings.cls_token": theirs["cls_token"],
        "embeddings.mask_token": theirs["mask_token"],
        "embeddings.position_embeddings": theirs["pos_embed"],
        "embeddings.register_tokens": theirs["register_tokens"],
        "layernorm.weight": theirs["norm.weight"],
        "layernorm.bias": theirs["norm.bias"],
    }
    for kind in ("weight", "bias"):
        at = "encoder.layer.0"
        same[f"embeddings.patch_embeddings.projection.{kind}"] = theirs[f"patch_embed.proj.{kind}"]
        query, key, value = theirs[f"blocks.0.attn.qkv.{kind}"].chunk(3)
        same[f"{at}.attention.attention.query.{kind}"] = query
        same[f"{at}.attention.attention.key.{kind}"] = key
        same[f"{at}.attention.attention.value.{kind}"] = value
        same[f"{at}.attention.output.dense.{kind}"] = theirs[f"blocks.0.attn.proj.{kind}"]
        same[f"{at}.norm1.{kind}"] = theirs[f"blocks.0.norm1.{kind}"]
        same[f"{at}.norm2.{kind}"] = theirs[f"blocks.0.norm2.{kind}"]
        same[f"{at}.mlp.weights_in.{kind}"] = theirs[f"blocks.0.mlp.w12.{kind}"]
        same[f"{at}.mlp.weights_out.{kind}"] = theirs[f"blocks.0.mlp.w3.{kind}"]
    same["encoder.layer.0.layer_scale1.lambda1"] = theirs["blocks.0.ls1.gamma"]
    same["encoder.layer.0.layer_scale2.lambda1"] = theirs["blocks.0.ls2.gamma"]
    first, second = (named_as_in_timm(state, "dinov2") for state in (theirs, same))
    assert set(first) == set(second)
    for name_of_timm, tensor in first.items():
        torch.testing.assert_close(tensor, second[name_of_timm], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["phikon-v2", "hibou-b"])
def test_dinov2_of_transformers_is_computed(name: str) -> None:
    """Its forward pass, written here with the names of its weights."""
    design, size = cut(name, 2), PUBLISHED[name]
    state = random_state(transformers_shapes(size, 2))
    encoder = build_encoder(design, named_as_in_timm(state, design.layout))
    images = reference_images(some_tiles(2), design)
    with torch.inference_mode():
        found, wanted = encoder(images), _dinov2(state, images, size.patch, depth=2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def _dinov2(state: dict[str, Tensor], images: Tensor, patch: int, depth: int) -> Tensor:
    """Class token (B, D) of DINOv2 with the names of transformers; heads are 64 wide."""

    def linear(at: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{at}.weight"], state[f"{at}.bias"])

    def norm(at: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{at}.weight"], state[f"{at}.bias"], 1e-6)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, 64)).transpose(1, 2)

    at = "embeddings.patch_embeddings.projection"
    grid = F.conv2d(images, state[f"{at}.weight"], state[f"{at}.bias"], stride=patch)
    patches = grid.flatten(2).transpose(1, 2)
    batch = len(images)
    x = torch.cat([state["embeddings.cls_token"].expand(batch, -1, -1), patches], dim=1)
    x = x + state["embeddings.position_embeddings"]
    registers = state.get("embeddings.register_tokens")
    if registers is not None:
        x = torch.cat([x[:, :1], registers.expand(batch, -1, -1), x[:, 1:]], dim=1)
    for i in range(depth):
        at = f"encoder.layer.{i}"
        normed = norm(f"{at}.norm1", x)
        q, k, v = (
            heads(linear(f"{at}.attention.attention.{part}", normed))
            for part in ("query", "key", "value")
        )
        mixed = (q @ k.transpose(2, 3) / math.sqrt(64)).softmax(-1) @ v
        attended = linear(f"{at}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        x = x + state[f"{at}.layer_scale1.lambda1"] * attended
        normed = norm(f"{at}.norm2", x)
        if f"{at}.mlp.weights_in.weight" in state:
            gate, value = linear(f"{at}.mlp.weights_in", normed).chunk(2, dim=-1)
            out = linear(f"{at}.mlp.weights_out", F.silu(gate) * value)
        else:
            out = linear(f"{at}.mlp.fc2", F.gelu(linear(f"{at}.mlp.fc1", normed)))
        x = x + state[f"{at}.layer_scale2.lambda1"] * out
    return norm("layernorm", x)[:, 0]


def test_pool_of_conch_is_computed() -> None:
    """One query attends to all tokens in 8 heads, as its published code does."""
    design, size = cut("conch"), PUBLISHED["conch"]
    state = random_state(conch_shapes(size, 1))
    encoder = build_encoder(design, named_as_in_timm(state, design.layout))
    images = reference_images(some_tiles(1), design)
    assert images.shape == (1, 3, 448, 448)
    with torch.inference_mode():
        tokens = encoder.network.forward_features(images)
        found = encoder(images)
    at = "visual.attn_pool_contrast"
    context = F.layer_norm(tokens, (768,), state[f"{at}.ln_k.weight"], state[f"{at}.ln_k.bias"])
    query = state[f"{at}.query"]
    query = F.layer_norm(query, (512,), state[f"{at}.ln_q.weight"], state[f"{at}.ln_q.bias"])
    biases = state[f"{at}.attn.in_proj_bias"].chunk(3)
    q, k, v = (
        F.linear(x, state[f"{at}.attn.{part}_proj_weight"], bias).unflatten(-1, (8, 64))
        for x, part, bias in zip((query, context[0], context[0]), "qkv", biases, strict=True)
    )
    scores = torch.einsum("qhd,khd->hqk", q, k) / 8
    mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
    out = F.linear(mixed, state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"])
    norm = (state["visual.ln_contrast.weight"], state["visual.ln_contrast.bias"])
    wanted = F.layer_norm(out, (512,), *norm)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_virchow2_gives_class_token_and_mean_of_the_patches_after_its_registers() -> None:
    design = cut("virchow2")
    state = random_state(SHAPES["virchow2"](PUBLISHED["virchow2"], 1))
    encoder = build_encoder(design, named_as_in_timm(state, design.layout))
    images = reference_images(some_tiles(2), design)
    with torch.inference_mode():
        tokens = encoder.network(images)
        found = encoder(images)
    assert tokens.shape == (2, 1 + 4 + 256, 1280)
    wanted = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LIKE_OTHERS else []) for name in NAMES],
)
def test_export_of_one_block_gives_the_features_of_timm(name: str, tmp_path: Path) -> None:
    design = cut(name)
    weights = tmp_path / "pytorch_model.bin"
    torch.save(random_state(SHAPES[name](PUBLISHED[name], 1)), weights)
    opened = open_encoder(design, weights)
    written = write_encoder(opened, tmp_path / f"{name}.onnx")
    assert opened.feature_dim == design.feature_dim
    assert max(result.relative for result in written.parity) < 1e-5
    assert {result.size for result in written.parity} == {1, 2, 5}
    model = onnx.load(written.path)
    (given,), (features,) = model.graph.input, model.graph.output
    assert given.name == TILES.name
    assert [axis.dim_value for axis in given.type.tensor_type.shape.dim][1:] == [224, 224, 3]
    assert features.type.tensor_type.shape.dim[1].dim_value == design.feature_dim
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]
    assert {node.domain for node in model.graph.node} == {""}


def test_file_of_another_encoder_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "uni.bin"
    torch.save(random_state(SHAPES["uni"](PUBLISHED["uni"], 1)), weights)
    with pytest.raises(CheckpointError, match=r"uni\.bin: weights of hibou-b: missing keys: .*reg"):
        open_encoder(cut("hibou-b"), weights)
    wider = replace(PUBLISHED["uni"], expanded=2048, hidden=2048)
    torch.save(random_state(SHAPES["uni"](wider, 1)), weights)
    with pytest.raises(CheckpointError, match=r"wrong shapes: network\.blocks\.0\.mlp\.fc1"):
        open_encoder(cut("uni"), weights)


def test_unknown_preset_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"preset 'uni3': use uni, uni2-h, virchow2"):
        preset_of("uni3")


def test_check_of_names_is_not_vacuous() -> None:
    """A published name that the mapping forgot would be seen as missing."""
    size = PUBLISHED["phikon-v2"]
    published = empty_state(transformers_shapes(size, size.depth))
    del published["encoder.layer.3.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"missing keys: network\.blocks\.3\.mlp\.fc1\.bias"):
        build_encoder(preset_of("phikon-v2"), named_as_in_timm(published, "dinov2"))
    whole = build_encoder(cut("phikon-v2"))
    with pytest.raises(CheckpointError, match="unexpected keys"):
        check_state(whole, {**whole.state_dict(), "more": torch.zeros(1)}, "weights")
