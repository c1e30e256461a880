"""The single-view models and the ablations: sizes, and the behavior of all of them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.variants import VARIANTS
from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import Triplex, build_model
from triplex_deploy.models.image_encoders import TileEncoder
from triplex_deploy.models.spot_model import assert_eval
from triplex_deploy.models.triplex import AttentionPool, ConcatFusion, SumFusion
from triplex_deploy.tiles.apeg import position_index

BC1 = ModelConfig()
BC2 = ModelConfig(
    fusion_depth=3,
    fusion_heads=16,
    global_heads=8,
    global_mlp_ratio=2.0,
    neighbor_depth=4,
    neighbor_heads=8,
    neighbor_mlp_ratio=4.0,
)
SCC = ModelConfig(
    fusion_depth=2, fusion_heads=8, global_depth=2, global_mlp_ratio=1.0, neighbor_depth=4
)
SPOTS = 6
GRID_RC = np.array([[2, 2], [2, 3], [3, 2], [5, 5], [3, 3], [2, 5]])

each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def size(config):
    with torch.device("meta"):
        model = Triplex(config)
    return sum(parameter.numel() for parameter in model.parameters())


def inputs(config, px=32):
    """Return the arguments of ``forward`` for all spots of a slide; None for an absent view."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand((SPOTS, 25), generator=generator) > 0.3
    mask[:, 12] = True
    return {
        "images": torch.randn((SPOTS, 3, px, px), generator=generator),
        "neighbor_features": torch.randn((SPOTS, 25, config.feature_dim), generator=generator),
        "mask": mask,
        "slide_features": torch.randn((SPOTS, config.feature_dim), generator=generator),
        "apeg_index": table_of(config, GRID_RC),
        "spot_index": torch.arange(SPOTS),
    }


def table_of(config, grid_rc):
    return torch.from_numpy(position_index(grid_rc, config.position, config.apeg_kernel))


def rows(given, chosen):
    """Return the arguments for the ``chosen`` spots of the same slide."""
    of_spots = ("images", "neighbor_features", "mask", "spot_index")
    return given | {name: given[name][chosen] for name in of_spots}


@pytest.mark.parametrize(
    ("config", "triplex", "tem", "nem", "gem"),
    [
        pytest.param(BC1, 29_031_640, 11_304_762, 4_859_818, 9_586_938, id="BC1"),
        pytest.param(BC2, 40_058_184, 11_304_762, 12_733_466, 6_438_138, id="BC2"),
        pytest.param(SCC, 27_459_688, 11_304_762, 6_436_666, 3_287_290, id="SCC"),
    ],
)
def test_sizes_of_the_published_models(config, triplex, tem, nem, gem):
    sizes = [size(dataclasses.replace(config, model=m)) for m in ("triplex", "tem", "nem", "gem")]
    assert sizes == [triplex, tem, nem, gem]


@pytest.mark.parametrize(
    ("changes", "delta"),
    [
        ({"use_target": False}, -11_304_762),
        ({"use_neighbor": False}, -6_436_666),
        ({"use_global": False}, -3_287_290),
        ({"position": "peg"}, 0),
        ({"position": "none"}, -(9 * 512 + 512)),
        ({"fusion": "sum"}, -6_301_696),
        ({"fusion": "concat"}, -6_301_696 + 2 * 1024 + 1024 * 250),
        ({"fusion": "attention_pool"}, -6_301_696 + (512 * 128 + 128) + (128 + 1)),
        ({"auxiliary_heads": False}, -3 * (512 * 250 + 250)),
        ({"fusion_loss_alpha": 0.0}, 0),
        ({"target_projection": True}, 512 * 512 + 512),
        ({"feature_dim": 1024}, 2 * (1024 * 512 + 512)),
        ({"target_backbone": "efficientnet_lite0"}, 3_371_008 + 1280 * 512 + 512 - 11_176_512),
    ],
    ids=str,
)
def test_what_an_ablation_adds_or_removes(changes, delta):
    assert size(dataclasses.replace(SCC, **changes)) - 27_459_688 == delta


@each_variant
def test_every_view_has_its_head_and_every_weight_a_gradient(config):
    model = build_model(config, seed=0)
    output = model(**inputs(config))
    heads = [
        name for name in ("target", "neighbor", "global_") if getattr(output, name) is not None
    ]
    alone = len(config.views) == 1 or not config.auxiliary_heads
    assert [name.strip("_") for name in heads] == ([] if alone else list(config.views))
    sum(part.sum() for part in output if part is not None).backward()
    assert output.fusion.shape == (SPOTS, config.n_genes)
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@each_variant
def test_evaluation_is_deterministic_and_reaches_every_module(config):
    model = build_model(config, seed=0).eval()
    assert_eval(model)
    given = inputs(config)
    with torch.inference_mode():
        assert torch.equal(model(**given).fusion, model(**given).fusion)


@each_variant
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(config):
    model, given = build_model(config, seed=0).eval(), inputs(config)
    with torch.inference_mode():
        together = model(**given).fusion
        apart = [model(**rows(given, torch.tensor([i]))).fusion for i in range(SPOTS)]
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-5, rtol=0)


@each_variant
def test_permuting_the_spots_permutes_the_predictions(config):
    model, given = build_model(config, seed=0).eval(), inputs(config)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    shuffled = rows(given, order) | {
        "slide_features": given["slide_features"][order],
        "apeg_index": table_of(config, GRID_RC[order.numpy()]),
        "spot_index": torch.arange(SPOTS),
    }
    with torch.inference_mode():
        expected, permuted = model(**given).fusion, model(**shuffled).fusion
    torch.testing.assert_close(permuted, expected[order], atol=1e-5, rtol=0)


@each_variant
def test_content_of_masked_tiles_reaches_the_neighbor_mean_alone(config):
    """It changes predictions from that mean, but no attention, which has the mask."""
    model, given = build_model(config, seed=0).eval(), inputs(config)
    noise = 10 * torch.randn(given["neighbor_features"].shape)
    features = torch.where(given["mask"][..., None], given["neighbor_features"], noise)
    with torch.inference_mode():
        before = model(**given).fusion
        after = model(**given | {"neighbor_features": features}).fusion
    uses_mean = "neighbor" in config.views and "neighbor" not in config.contexts
    assert torch.equal(before, after) != uses_mean


@each_variant
def test_a_slide_of_one_spot_is_predicted(config):
    model, given = build_model(config, seed=0).eval(), inputs(config)
    alone = rows(given, torch.tensor([0])) | {
        "slide_features": given["slide_features"][:1],
        "apeg_index": table_of(config, GRID_RC[:1]),
    }
    with torch.inference_mode():
        assert torch.isfinite(model(**alone).fusion).all()


def test_without_global_the_mean_target_token_queries_the_neighbors():
    config = VARIANTS["without global"]
    model, given = build_model(config, seed=0).eval(), inputs(config)
    assert isinstance(model, Triplex)
    with torch.inference_mode():
        targets = model.encode_targets(given["images"])
        assert targets is not None
        neighbors = model.encode_neighbors(given["neighbor_features"], given["mask"])
        mean_only = model.predict_from_tokens(
            None, targets.mean(1, keepdim=True), neighbors, given["mask"]
        )
        whole = model.predict_from_tokens(None, targets, neighbors, given["mask"])
    torch.testing.assert_close(mean_only.fusion, whole.fusion)


def test_pooled_fusions_by_hand():
    tokens = torch.tensor([[[1.0, 3.0], [5.0, 1.0], [0.0, 2.0]]])  # (B=1, V=3, D=2)
    side_by_side = ConcatFusion(2, views=3)(tokens)  # mean 2, variance 8/3
    torch.testing.assert_close(
        side_by_side, torch.tensor([[-1.0, 1.0, 3.0, -1.0, -2.0, 0.0]]) / (8 / 3) ** 0.5
    )
    wider = torch.cat((tokens, torch.zeros(1, 3, 1)), 2)
    summed = SumFusion(3, views=3)(wider)  # of (6, 6, 0): mean 4, variance 8
    torch.testing.assert_close(summed, torch.tensor([[2.0, 2.0, -4.0]]) / 8**0.5)


def test_attention_pool_weighs_views_by_softmax():
    fusion = AttentionPool(4, views=2)
    tokens = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    with torch.no_grad():
        fusion.hidden.weight.zero_()[0, 0] = 100.0  # tanh: 1 for the first view, 0 for the second
        fusion.hidden.bias.zero_()
        fusion.weight.weight.fill_(math.log(3.0))
    # weights 3/4 and 1/4: (3/4, 0, 0, 1/4) has mean 1/4 and variance 3/32
    expected = torch.tensor([[0.5, -0.25, -0.25, 0.0]]) / (3 / 32) ** 0.5
    torch.testing.assert_close(fusion(tokens), expected, atol=1e-3, rtol=0)


def test_tile_encoder_of_another_backbone_is_as_wide_as_its_map():
    features = TileEncoder("efficientnet_lite0").eval()(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, 1280)
