"""DenseNet: the standard network's size, names and arithmetic, and strict loading of weights."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.densenet import DenseLayer, DenseNet, load_densenet_weights

TINY: dict[str, Any] = {"growth": 4, "blocks": (2, 3), "stem_channels": 8}
COUNTER = "num_batches_tracked"


@pytest.fixture
def backbone():
    """Return a small backbone in evaluation mode in which all tensors differ."""
    torch.manual_seed(0)
    backbone = DenseNet(**TINY)
    for value in backbone.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return backbone.eval()


@pytest.fixture
def published(backbone):
    """Return names as in the first files of torchvision: a dot before the number, no counters."""
    weights = {
        re.sub(r"(denselayer\d+)\.(norm|conv)(\d)", r"\1.\2.\3", key): value
        for key, value in backbone.state_dict().items()
        if not key.endswith(COUNTER)
    }
    return weights | {"classifier.weight": torch.zeros(1000, 20), "classifier.bias": torch.zeros(9)}


def test_default_is_densenet_121():
    with torch.device("meta"):
        backbone = DenseNet()
        feature_map = backbone.feature_map(torch.zeros(2, 3, 224, 224))
    state = backbone.state_dict()
    assert feature_map.shape == (2, 1024, 7, 7)
    assert backbone.width == 1024
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 6_953_856
    assert len([key for key in state if not key.endswith(COUNTER)]) == 120 + 4 * 121
    assert state["features.conv0.weight"].shape == (64, 3, 7, 7)
    assert state["features.denseblock3.denselayer24.norm1.running_var"].shape == (992,)
    assert state["features.denseblock4.denselayer16.conv2.weight"].shape == (32, 128, 3, 3)
    assert state["features.transition2.conv.weight"].shape == (256, 512, 1, 1)
    assert state["features.norm5.bias"].shape == (1024,)


def test_a_layer_keeps_its_input_and_appends_to_it():
    torch.manual_seed(1)
    layer, x = DenseLayer(3, growth=2).eval(), torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        out = layer(x)
    assert out.shape == (1, 5, 5, 5)
    assert torch.equal(out[:, :3], x)
    assert (out[:, 3:] != 0).any()


def test_a_map_is_what_its_parts_make_of_it():
    """A block of one layer equals the same operations written as functions."""
    torch.manual_seed(2)
    backbone = DenseNet(growth=2, blocks=(1, 1), stem_channels=4).eval()
    state, images = backbone.state_dict(), torch.randn(2, 3, 32, 32)

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"features.{name}.{key}"] for key in keys))

    def conv(x, name, **how):
        return F.conv2d(x, state[f"features.{name}.weight"], **how)

    def block(x, name):
        hidden = conv(F.relu(norm(x, f"{name}.norm1")), f"{name}.conv1")
        new = conv(F.relu(norm(hidden, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return torch.cat([x, new], 1)

    with torch.inference_mode():
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.uniform_(-1, 1)
                module.bias.uniform_(-1, 1)
        x = F.relu(norm(conv(images, "conv0", stride=2, padding=3), "norm0"))
        x = block(F.max_pool2d(x, 3, 2, 1), "denseblock1.denselayer1")
        x = F.avg_pool2d(conv(F.relu(norm(x, "transition1.norm")), "transition1.conv"), 2)
        x = F.relu(norm(block(x, "denseblock2.denselayer1"), "norm5"))
        ours = backbone.feature_map(images)
    assert ours.shape == (2, 5, 4, 4)
    torch.testing.assert_close(ours, x)


def test_published_names_find_their_place(backbone, published):
    fresh = DenseNet(**TINY)
    load_densenet_weights(fresh, published)
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(fresh.eval().feature_map(images), backbone.feature_map(images))
    load_densenet_weights(fresh, backbone.state_dict())  # our own names, with counters, do too


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"features.denseblock2.denselayer3.norm.1.bias": None},
            r"missing keys: features\.denseblock2\.denselayer3\.norm1\.bias;",
        ),
        ({"features.norm6.weight": torch.zeros(1)}, r"unexpected keys: features\.norm6\.weight"),
        (
            {"features.conv0.weight": torch.zeros(8, 3, 3, 3)},
            r"wrong shapes: features\.conv0\.weight \(8, 3, 3, 3\) instead of \(8, 3, 7, 7\)",
        ),
        (
            {f"features.norm0.{COUNTER}": torch.tensor(1)},
            rf"missing keys: features\.denseblock1\.denselayer1\.norm1\.{COUNTER}",
        ),
    ],
    ids=["missing", "unexpected", "misshaped", "some-counters"],
)
def test_odd_key_is_named(published, change, reason):
    weights = {key: value for key, value in (published | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=reason):
        load_densenet_weights(DenseNet(**TINY), weights)
