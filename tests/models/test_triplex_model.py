"""Behavior of the whole model: sizes, determinism, masks, and independence of order and batch."""

import copy

import pytest
import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import ContractError
from triplex_deploy.models import build_model
from triplex_deploy.models.spot_model import assert_eval
from triplex_deploy.models.triplex import Triplex

ALL = torch.arange(6)


def test_every_head_predicts_every_gene(tiny_model, slide_inputs):
    with torch.inference_mode():
        output = tiny_model(*slide_inputs.arguments(ALL))
    assert [tuple(part.shape) for part in output] == [(6, 7)] * 4
    assert output._fields == ("fusion", "target", "neighbor", "global_")


def test_a_224_px_tile_gives_49_target_tokens(tiny_model):
    with torch.inference_mode():
        assert tiny_model.target_encoder(torch.zeros(1, 3, 224, 224)).shape == (1, 49, 512)


def test_eval_reaches_every_dropout(tiny_config, slide_inputs):
    model = build_model(tiny_config, seed=0)
    arguments = slide_inputs.arguments(ALL)
    with torch.inference_mode():
        assert not torch.equal(model(*arguments).fusion, model(*arguments).fusion)
        model.eval()
        assert_eval(model)
        first, second = model(*arguments), model(*arguments)
    for once, again in zip(first, second, strict=True):
        assert torch.equal(once, again)


def test_assert_eval_names_the_part_left_in_training_mode(tiny_model):
    tiny_model.global_encoder.layers[0].attention.dropout.train()
    with pytest.raises(ContractError, match=r"global_encoder\.layers\.0\.attention\.dropout"):
        assert_eval(tiny_model)


def test_no_module_overrides_train(tiny_model):
    overriding = [type(part) for part in tiny_model.modules() if "train" in vars(type(part))]
    assert overriding == []


def test_bias_table_follows_weights_loaded_after_eval(tiny_model, slide_inputs):
    encoder = tiny_model.neighbor_encoder
    inputs = slide_inputs.neighbor_features, slide_inputs.mask
    with torch.inference_mode():
        before = encoder(*inputs)
        state = copy.deepcopy(encoder.state_dict())
        state["layers.0.attention.bias.table"].zero_()
        encoder.load_state_dict(state)
        assert not torch.allclose(encoder(*inputs), before)


def test_a_seed_fixes_the_weights_and_leaves_the_generator_alone(tiny_config):
    state = torch.random.get_rng_state()
    first, second, other = (build_model(tiny_config, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    key = "expression_head.weight"
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_content_of_masked_tiles_reaches_the_neighbor_mean_alone(tiny_model, slide_inputs):
    features, mask = slide_inputs.neighbor_features, slide_inputs.mask
    changed = torch.where(mask[..., None], features, 100 * torch.randn_like(features))
    target_tokens, global_tokens = torch.randn(6, 4, 512), torch.randn(6, 512)
    with torch.inference_mode():
        before = tiny_model.neighbor_encoder(features, mask)
        after = tiny_model.neighbor_encoder(changed, mask)
        outputs = [
            tiny_model.predict_from_tokens(global_tokens, target_tokens, tokens, mask)
            for tokens in (before, after)
        ]
    assert torch.equal(before[mask], after[mask])
    assert torch.equal(outputs[0].fusion, outputs[1].fusion)
    assert not torch.allclose(outputs[0].neighbor, outputs[1].neighbor)


def test_all_neighbors_masked_but_the_center(tiny_model, slide_inputs):
    mask = torch.zeros(6, 25, dtype=torch.bool)
    mask[:, 12] = True
    with torch.inference_mode():
        tokens = tiny_model.neighbor_encoder(slide_inputs.neighbor_features, mask)
    assert torch.isfinite(tokens).all()


def test_permuting_the_spots_of_a_slide_permutes_the_predictions(tiny_model, slide_inputs):
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    position = torch.argsort(order)  # where each spot went
    index = slide_inputs.apeg_index[order]
    shuffled = (
        slide_inputs.images[order],
        slide_inputs.neighbor_features[order],
        slide_inputs.mask[order],
        slide_inputs.slide_features[order],
        torch.where(index < 0, index, position[index.clamp(min=0)]),
        ALL,
    )
    with torch.inference_mode():
        expected = tiny_model(*slide_inputs.arguments(ALL))
        permuted = tiny_model(*shuffled)
    for ours, reference in zip(permuted, expected, strict=True):
        torch.testing.assert_close(ours, reference[order], atol=1e-5, rtol=0)


def test_predictions_do_not_depend_on_the_batch(tiny_model, slide_inputs):
    with torch.inference_mode():
        together = tiny_model(*slide_inputs.arguments(ALL)).fusion
        alone = [tiny_model(*slide_inputs.arguments(ALL[i : i + 1])).fusion for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


def test_the_global_token_sees_the_rest_of_the_slide(tiny_model, slide_inputs):
    changed = slide_inputs.slide_features.clone()
    changed[5] += 1
    with torch.inference_mode():
        before = tiny_model.global_encoder(slide_inputs.slide_features, slide_inputs.apeg_index)
        after = tiny_model.global_encoder(changed, slide_inputs.apeg_index)
    assert not torch.allclose(before[0], after[0])


def test_a_slide_of_one_spot(tiny_model, slide_inputs):
    void = torch.full((1, 9), -1)
    with torch.inference_mode():
        tokens = tiny_model.global_encoder(slide_inputs.slide_features[:1], void)
    assert tokens.shape == (1, 512)
    assert torch.isfinite(tokens).all()


def test_without_position_the_index_is_not_read(slide_inputs):
    model = build_model(ModelConfig(n_genes=2, global_depth=2, position="none"), seed=0).eval()
    assert isinstance(model, Triplex)
    assert model.global_encoder is not None
    assert not [key for key in model.state_dict() if "apeg" in key]
    with torch.inference_mode():
        tokens = model.global_encoder(slide_inputs.slide_features, slide_inputs.apeg_index)
        void = model.global_encoder(
            slide_inputs.slide_features, torch.full_like(slide_inputs.apeg_index, -1)
        )
    assert torch.equal(tokens, void)


def test_the_attention_core_can_be_replaced_without_touching_the_weights(tiny_model, slide_inputs):
    class MeanOfValues(torch.nn.Module):
        def forward(self, query, key, value, bias=None, key_mask=None):
            return value.mean(1, keepdim=True).expand_as(query)

    inputs = slide_inputs.slide_features, slide_inputs.apeg_index
    keys = list(tiny_model.state_dict())
    with torch.inference_mode():
        before = tiny_model.global_encoder(*inputs)
        for layer in tiny_model.global_encoder.layers:
            layer.attention.attend = MeanOfValues()
        after = tiny_model.global_encoder(*inputs)
    assert list(tiny_model.state_dict()) == keys
    assert not torch.allclose(before, after)
