"""Optimization profiles: the default, what users may choose, and the shapes that follow."""

import pytest

from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.errors import ConfigError
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange, choose_profiles

SPECS = graph_specs(ModelConfig())


def test_every_graph_gets_the_profile_of_its_axis() -> None:
    profiles = choose_profiles(SPECS)
    assert profiles.keys() == SPECS.keys()
    assert profiles["tile_encoder"].lengths == (1, 64, 512)
    assert profiles["global_encoder"].lengths == (1, 4096, 20000)


def test_graph_s_own_profile_wins_over_its_axis() -> None:
    profiles = choose_profiles(SPECS, ["batch=1:8:16", "fusion_head=2:32:128", "spots=9:99:999"])
    assert str(profiles["neighbor_encoder"]) == "1:8:16"
    assert str(profiles["fusion_head"]) == "2:32:128"
    assert str(profiles["global_encoder"]) == "9:99:999"


def test_shapes_fill_only_the_dynamic_axis() -> None:
    features, mask = SPECS["neighbor_encoder"].inputs
    assert ProfileRange(1, 4, 8).shapes(features) == ((1, 25, 512), (4, 25, 512), (8, 25, 512))
    assert ProfileRange(1, 4, 8).shapes(mask) == ((1, 25), (4, 25), (8, 25))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("batch=8", "write NAME=MIN:OPT:MAX"),
        ("batch=8:4:16", "use 1 <= MIN <= OPT <= MAX"),
        ("batch=0:4:16", "use 1 <= MIN"),
        ("decoder=1:4:16", "decoder is not one of batch, spots, tile_encoder"),
    ],
)
def test_profile_that_makes_no_sense_is_refused(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        choose_profiles(SPECS, [text])
