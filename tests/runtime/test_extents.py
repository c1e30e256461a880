"""Optimisation profiles: the default, what may be asked for, and the shapes that follow."""

import pytest

from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.errors import ConfigError
from triplex_deploy.runtime.tensorrt.profiles import Extent, choose_extents

SPECS = graph_specs(ModelConfig())


def test_every_graph_gets_the_extent_of_its_axis() -> None:
    extents = choose_extents(SPECS)
    assert extents.keys() == SPECS.keys()
    assert extents["tile_encoder"].lengths == (1, 64, 512)
    assert extents["global_encoder"].lengths == (1, 4096, 20000)


def test_graph_s_own_profile_wins_over_its_axis() -> None:
    extents = choose_extents(SPECS, ["batch=1:8:16", "fusion_head=2:32:128", "spots=9:99:999"])
    assert str(extents["neighbor_encoder"]) == "1:8:16"
    assert str(extents["fusion_head"]) == "2:32:128"
    assert str(extents["global_encoder"]) == "9:99:999"


def test_shapes_fill_the_dynamic_axis_alone() -> None:
    features, mask = SPECS["neighbor_encoder"].inputs
    assert Extent(1, 4, 8).shapes(features) == ((1, 25, 512), (4, 25, 512), (8, 25, 512))
    assert Extent(1, 4, 8).shapes(mask) == ((1, 25), (4, 25), (8, 25))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batch=8", "write NAME=MIN:TYPICAL:MAX"),
        ("batch=8:4:16", "use 1 <= MIN <= TYPICAL <= MAX"),
        ("batch=0:4:16", "use 1 <= MIN"),
        ("decoder=1:4:16", "decoder is not one of batch, spots, tile_encoder"),
    ],
)
def test_profile_that_makes_no_sense_is_refused(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        choose_extents(SPECS, [text])
