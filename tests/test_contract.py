"""The graph contract and the model configuration."""

from typing import Any

import pytest

from triplex_deploy.contract import GraphSpec, ModelConfig, config_from_dict, graph_specs
from triplex_deploy.errors import ConfigError


def test_graphs_have_the_names_and_axes_that_runtimes_use() -> None:
    specs = graph_specs(ModelConfig())
    assert list(specs) == [
        "tile_encoder",
        "target_encoder",
        "neighbor_encoder",
        "global_encoder",
        "fusion_head",
    ]
    tiles = specs["tile_encoder"].inputs[0]
    assert (tiles.name, tiles.dtype, tiles.axes) == ("tiles", "uint8", ("batch", 224, 224, 3))
    index = specs["global_encoder"].inputs[1]
    assert (index.name, index.dtype, index.axes) == ("apeg_index", "int64", ("spots", 9))
    expression = specs["fusion_head"].outputs[0]
    assert expression.axes == ("batch", 250)


def test_config_survives_a_round_trip() -> None:
    config = ModelConfig(n_genes=12, apeg_kernel=5, position="none", nonnegative=True)
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"depth": 3}, "depth: not a model option"),
        ({"n_genes": "250"}, "n_genes='250': expected int"),
        ({"n_genes": True}, "n_genes=True: expected int"),
        ({"nonnegative": 1}, "nonnegative=1: expected bool"),
        ({"n_genes": 0}, "n_genes=0"),
        ({"model": "stnet"}, "model='stnet'"),
        ({"position": "sine"}, "position='sine'"),
        ({"embedding_dim": 100}, "global_heads=16: must divide embedding_dim=100"),
        ({"global_depth": 1}, "global_depth=1: use at least 2"),
        ({"fusion_heads": 7}, "fusion_heads=7"),
        ({"apeg_kernel": 4}, "apeg_kernel=4"),
        ({"neighbor_dropout": 1.0}, "neighbor_dropout"),
        ({"neighbor_mlp_ratio": 0.0}, "neighbor_mlp_ratio"),
        ({"fusion_loss_alpha": 1.5}, "fusion_loss_alpha=1.5"),
    ],
)
def test_bad_option_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(values)
    assert named in str(caught.value)


def axes(specs: dict[str, GraphSpec], graph: str) -> dict[str, tuple[int | str, ...]]:
    spec = specs[graph]
    return {tensor.name: tensor.axes for tensor in (*spec.inputs, *spec.outputs)}


ALL = ["tile_encoder", "target_encoder", "neighbor_encoder", "global_encoder", "fusion_head"]


@pytest.mark.parametrize(
    ("values", "absent", "fused"),
    [
        ({"model": "tem"}, ALL[0:1] + ALL[2:4], {"target_tokens": 1}),
        ({"model": "nem"}, ["target_encoder", "global_encoder"], {"neighbor_tokens": 1}),
        ({"model": "gem"}, ["target_encoder", "neighbor_encoder"], {"global_tokens": None}),
        (
            {"use_target": False},
            ["target_encoder"],
            {"global_tokens": None, "neighbor_tokens": 25, "mask": None},
        ),
        (
            {"use_neighbor": False},
            ["neighbor_encoder"],
            {"global_tokens": None, "target_tokens": 49},
        ),
        (
            {"use_global": False},
            ["global_encoder"],
            {"target_tokens": 1, "neighbor_tokens": 25, "mask": None},
        ),
        (
            {"use_global": False, "fusion": "sum"},
            ["global_encoder"],
            {"target_tokens": 1, "neighbor_tokens": 1},
        ),
        *(
            (
                {"fusion": fusion},
                [],
                {"global_tokens": None, "target_tokens": 1, "neighbor_tokens": 1},
            )
            for fusion in ("sum", "concat", "attention_pool")
        ),
        *(
            (
                values,
                [],
                {"global_tokens": None, "target_tokens": 49, "neighbor_tokens": 25, "mask": None},
            )
            for values in (
                {},
                {"position": "peg"},
                {"position": "none"},
                {"auxiliary_heads": False},
                {"target_projection": True},
                {"target_backbone": "efficientnet_lite0"},
            )
        ),
    ],
    ids=str,
)
def test_model_has_the_graphs_and_tokens_it_needs(
    values: dict[str, Any], absent: list[str], fused: dict[str, int | None]
) -> None:
    """``fused`` has the fusion head's inputs with their tokens per spot; None is one vector."""
    specs = graph_specs(ModelConfig(**values))
    assert list(specs) == [name for name in ALL if name not in absent]
    head = specs["fusion_head"]
    assert [tensor.name for tensor in head.inputs] == list(fused)
    for tensor in head.inputs:
        tokens, source = fused[tensor.name], tensor.name.removesuffix("_tokens") + "_encoder"
        if tensor.name == "mask":
            assert tensor.axes == ("batch", 25)
            continue
        own = () if tokens is None else (tokens,)
        assert tensor.axes == ("batch", *own, 512)
        (given,) = specs[source].outputs  # what one graph gives, the next one takes
        assert (given.name, given.dtype, given.axes[1:]) == (tensor.name, "float32", (*own, 512))


def test_widths_and_kernel_are_the_configuration_s() -> None:
    config = ModelConfig(
        feature_dim=1280, embedding_dim=64, n_genes=7, apeg_kernel=5, fusion_heads=4
    )
    specs = graph_specs(config)
    assert axes(specs, "tile_encoder")["features"] == ("batch", 1280)
    assert axes(specs, "target_encoder")["target_tokens"] == ("batch", 49, 64)
    assert axes(specs, "neighbor_encoder")["features"] == ("batch", 25, 1280)
    assert axes(specs, "global_encoder") == {
        "features": ("spots", 1280),
        "apeg_index": ("spots", 25),
        "global_tokens": ("spots", 64),
    }
    assert axes(specs, "fusion_head")["expression"] == ("batch", 7)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model": "tem", "use_global": False}, "use_global=False: tem has only the target view"),
        ({"use_target": False, "use_global": False}, "take tem, nem or gem"),
        ({"target_backbone": "vgg"}, "target_backbone='vgg'"),
        ({"fusion": "mean"}, "fusion='mean'"),
        ({"feature_dim": 0}, "feature_dim=0"),
    ],
)
def test_contradictory_views_are_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(values)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": "vit"}, "supports triplex, tem, nem, gem, st_net, his_to_gene, hist2st, egn"),
        ({"model": "st_net", "symmetries": 4}, "use 8, or 1 for none"),
        ({"model": "his_to_gene", "heads": 7}, "must divide embedding_dim=1024"),
        ({"model": "his_to_gene", "n_positions": 0}, "use at least 1"),
        ({"model": "hist2st", "channels": 4}, "multiple of 8"),
        ({"model": "hist2st", "channels": 16}, "must both be 512"),
        ({"model": "egn", "exclude": "nobody"}, "supports patient, slide"),
        ({"model": "egn", "bank_size": 5}, "the bank has 5 spots; use fewer"),
        ({"model": "bleep", "temperature": 0.0}, "must be positive"),
        ({"model": "bleep", "global_depth": 3}, "global_depth: not a model option"),
    ],
)
def test_wrong_values_of_the_compared_models_are_refused(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("model", "graphs"),
    [
        ("st_net", ["target_encoder", "fusion_head"]),
        ("his_to_gene", ["target_encoder", "global_encoder", "fusion_head"]),
        ("hist2st", ["target_encoder", "global_encoder", "fusion_head"]),
        ("egn", ["tile_encoder", "target_encoder", "retrieval", "fusion_head"]),
        ("bleep", ["target_encoder", "fusion_head"]),
    ],
)
def test_compared_models_have_the_graphs_that_they_need(model: str, graphs: list[str]) -> None:
    assert list(graph_specs(config_from_dict({"model": model}))) == graphs


def test_each_graph_has_a_kind() -> None:
    kinds = {name: spec.kind for name, spec in graph_specs(ModelConfig()).items()}
    assert kinds == {
        "tile_encoder": "per tile",
        "target_encoder": "per tile",
        "neighbor_encoder": "per batch",
        "global_encoder": "per slide",
        "fusion_head": "per batch",
    }


@pytest.mark.parametrize("model", ["triplex", "bleep"])
def test_keys_of_earlier_versions_are_accepted(model: str) -> None:
    old = config_from_dict({"model": model, "target_trunk": "efficientnet_lite0"})
    assert old == config_from_dict({"model": model, "target_backbone": "efficientnet_lite0"})
    assert "target_trunk" not in old.to_dict()
    with pytest.raises(ConfigError, match="given twice"):
        config_from_dict({"target_trunk": "resnet18", "target_backbone": "resnet18"})
