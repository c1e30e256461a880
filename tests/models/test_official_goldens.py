"""Every block equals outputs and gradients of the published code (width 32, seeded weights)."""

from typing import Literal

import pytest
import torch

from triplex_deploy.contract import NEIGHBORHOOD
from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.published.keys import (
    ATTENTION_KEYS,
    apeg_state,
    contiguous_qkv,
    encoder_state,
    global_encoder_state,
)
from triplex_deploy.models.torch_files import load_strictly
from triplex_deploy.models.transformer import BlockShape, RelativeBias, SelfAttention, offset_index
from triplex_deploy.models.triplex import Apeg, FusionEncoder, GlobalEncoder, NeighborEncoder

DIM = 32
GENERATIONS = pytest.mark.parametrize("generation", ["v1", "v2"])


def block_shape(reference):
    return BlockShape(DIM, reference.number("heads"), reference.number("mlp_dim"), dropout=0.5)


def loaded(module, state):
    load_strictly(module, state, "reference weights")
    return module.eval()


def attention_state(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the published weights of an attention under this package's names."""
    return {ATTENTION_KEYS[key]: value for key, value in official.items()}


@pytest.mark.parametrize(("name", "side"), [("3x3", 3), ("5x5", 5)])
def test_bias_table_is_indexed_by_absolute_row_and_column_offset(golden, name, side):
    reference = golden(f"attention_bias_idxs_{name}")
    assert torch.equal(offset_index(side), reference["idxs"])
    assert RelativeBias(4, side).table.shape == (4, reference.number("n_offsets"))


@GENERATIONS
def test_biased_attention_with_and_without_a_mask(golden, matches, generation):
    reference = golden(f"{generation}_mhsa_bias_mask")
    heads = reference.number("heads")
    attention = SelfAttention(DIM, heads, 0.5, RelativeBias(heads, NEIGHBORHOOD))
    loaded(attention, attention_state(reference.group("sd")))
    matches(attention(reference["x"], reference["mask"].bool()), reference["out"])
    matches(attention(reference["x"]), reference["out_nomask"])


def test_a_single_head_has_no_out_projection(golden, matches):
    reference = golden("v1_mhsa_heads1_no_out_proj")
    attention = SelfAttention(DIM, 1, 0.5)
    loaded(attention, attention_state(reference.group("sd")))
    matches(attention(reference["x"]), reference["out"])


def test_interleaved_qkv_rows_are_put_in_order(golden, matches):
    reference = golden("global_mhsa_v1_vs_v2_qkv_layout")
    weights = attention_state(reference.group("sd"))
    attention = SelfAttention(DIM, reference.number("heads"), 0.5)
    matches(loaded(attention, weights)(reference["x"]), reference["out_v1"])

    reordered = weights | {"qkv.weight": contiguous_qkv(weights["qkv.weight"])}
    matches(loaded(attention, reordered)(reference["x"]), reference["out_v2"])

    their_row = reference["v1_row_to_v2_row"]
    assert torch.equal(reordered["qkv.weight"], weights["qkv.weight"][their_row])


@GENERATIONS
def test_neighbor_encoder_and_its_gradients(golden, matches, matches_gradients, generation):
    reference = golden(f"{generation}_neighbor_encoder")
    encoder = NeighborEncoder(reference.number("depth"), block_shape(reference))
    loaded(encoder, encoder_state(reference.group("sd")))
    features = reference["x"].requires_grad_()
    tokens = encoder(features, reference["mask"].bool())
    tokens.backward(reference["cotangent"])
    matches(tokens, reference["out"])
    matches(features.grad, reference["grad_x"])
    matches_gradients(encoder, encoder_state(reference.group("grad")))


@GENERATIONS
def test_fusion_encoder_and_its_gradients(golden, matches, matches_gradients, generation):
    reference = golden(f"{generation}_fusion_encoder")
    encoder = FusionEncoder(reference.number("depth"), block_shape(reference))
    loaded(encoder, encoder_state(reference.group("sd")))
    tokens = [reference[name].requires_grad_() for name in ("x_g", "x_t", "x_n")]
    fused = encoder(*tokens, reference["mask"].bool())
    fused.backward(reference["cotangent"])
    matches(fused, reference["out"])
    for token, name in zip(tokens, ("grad_x_g", "grad_x_t", "grad_x_n"), strict=True):
        matches(token.grad, reference[name])
    matches_gradients(encoder, encoder_state(reference.group("grad")))


class TestApeg2024:
    """Positions are (row, col); the layer adds its input to the convolution."""

    @pytest.fixture
    def reference(self, golden):
        return golden("v1_pegh")

    @pytest.fixture
    def apeg(self, reference):
        return loaded(Apeg(DIM, kernel=3), apeg_state(reference.group("sd"), "2024"))

    def test_output_and_gradients(self, reference, apeg, apeg_index_of, matches, matches_gradients):
        tokens = reference["x"][0].requires_grad_()
        out = apeg(tokens, apeg_index_of(reference["pos"]))
        out.backward(reference["cotangent"][0])
        matches(out, reference["out"][0])
        matches(tokens.grad, reference["grad_x"][0])
        matches_gradients(apeg, apeg_state(reference.group("grad"), "2024"))

    def test_kernel_of_five(self, reference, apeg_index_of, matches):
        apeg = loaded(Apeg(DIM, kernel=5), apeg_state(reference.group("k5_sd"), "2024"))
        out = apeg(reference["x"][0], apeg_index_of(reference["pos"], 5))
        matches(out, reference["out_k5"][0])

    def test_shuffled_spots_keep_their_order(self, reference, apeg, apeg_index_of, matches):
        order = reference["perm"]
        out = apeg(reference["x"][0][order], apeg_index_of(reference["pos"][order]))
        matches(out, reference["out"][0][order])
        sorted_by_theirs = reference["out_for_permuted_input"][0]
        assert not torch.allclose(out, sorted_by_theirs)

    def test_token_that_sums_to_zero_is_still_a_spot(self, reference, apeg, apeg_index_of, matches):
        tokens = reference["x_zero_sum_token4"][0]
        out = apeg(tokens, apeg_index_of(reference["pos"]))
        others = torch.arange(len(tokens)) != 4
        matches(out[others], reference["out_zero_sum"][0][others])
        assert not torch.allclose(out[4], tokens[4])

    def test_all_zero_token_survives(self, reference, apeg, apeg_index_of, matches):
        tokens = reference["x_all_zero_token4"][0]
        out = apeg(tokens, apeg_index_of(reference["pos"]))
        others = torch.arange(len(tokens)) != 4
        matches(out[others], reference["out_all_zero"][0])
        assert out[4].abs().max() > 0


def test_apeg_2025_on_a_regular_array(golden, apeg_index_of, matches, matches_gradients):
    reference = golden("v2_apeg")
    apeg = Apeg(DIM, kernel=3, residual=False)
    loaded(apeg, apeg_state(reference.group("sd"), "2025"))
    tokens = reference["x"][0].requires_grad_()
    out = apeg(tokens, apeg_index_of(grid_of(reference["pos_regular"])))
    out.backward(reference["cotangent_regular"][0])
    matches(out, reference["out_regular"][0])
    matches(tokens.grad, reference["grad_x_regular"][0])
    matches_gradients(apeg, apeg_state(reference.group("grad"), "2025"))


@GENERATIONS
def test_global_encoder_and_its_gradients(
    golden, apeg_index_of, matches, matches_gradients, generation
):
    reference = golden(f"{generation}_global_encoder")
    layout: Literal["2024", "2025"] = "2024" if generation == "v1" else "2025"
    grid_rc = reference["pos"] if generation == "v1" else grid_of(reference["pos"])
    apeg = Apeg(DIM, kernel=3, residual=generation == "v1")
    encoder = GlobalEncoder(reference.number("depth"), block_shape(reference), apeg)
    loaded(encoder, global_encoder_state(reference.group("sd"), layout))
    features = reference["x"][0].requires_grad_()
    tokens = encoder(features, apeg_index_of(grid_rc))
    tokens.backward(reference["cotangent"][0])
    matches(tokens, reference["out"][0])
    matches(features.grad, reference["grad_x"][0])
    matches_gradients(encoder, global_encoder_state(reference.group("grad"), layout))


def test_global_encoder_without_position(golden, matches):
    reference = golden("v2_global_encoder_None")
    encoder = GlobalEncoder(reference.number("depth"), block_shape(reference), apeg=None)
    loaded(encoder, global_encoder_state(reference.group("sd"), "2025"))
    void = torch.full((reference["x"].shape[1], 9), -1)
    matches(encoder(reference["x"][0], void), reference["out"][0])


def test_position_mlp_of_2025_is_refused(golden):
    reference = golden("v2_global_encoder_MLP")
    with pytest.raises(CheckpointError, match=r"pos_layer\.mlp\.0\.bias"):
        global_encoder_state(reference.group("sd"), "2025")


def grid_of(position_xy):
    """Return the array coordinates (row, col) of top-left pixels (x, y) on a lattice of 260 px."""
    steps = (position_xy - position_xy.min(0).values) / 260
    return steps.round().long().flip(1)
