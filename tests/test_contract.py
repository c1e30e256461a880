"""The graph contract and the model configuration."""

import pytest

from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.errors import ConfigError


def test_graphs_have_the_names_and_axes_runtimes_rely_on() -> None:
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
        ({"embedding_dim": 256}, "embedding_dim=256"),
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
