"""ResNet18: the standard network's names and arithmetic, and strict loading of its weights."""

import pytest
import torch

from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.image_encoders import TargetEncoder, TileEncoder
from triplex_deploy.models.resnet import ResNet18, load_resnet18_weights


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TileEncoder().eval()


def histology_style(encoder):
    weights = {f"model.resnet.{key}": value for key, value in encoder.backbone.state_dict().items()}
    return weights | {"model.resnet.fc.weight": torch.zeros(5, 512)}


def test_standard_layout(encoder):
    state = encoder.backbone.state_dict()
    assert len(state) == 120  # the standard network's 122 without fc.weight and fc.bias
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 11_176_512
    assert state["layer3.0.downsample.1.running_var"].shape == (256,)


def test_pooled_features_are_the_mean_of_the_target_tokens(encoder):
    target_encoder = TargetEncoder("resnet18").eval()
    target_encoder.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        tokens, features = target_encoder(images), encoder(images)
        feature_map = encoder.backbone.feature_map(images)
    assert tokens.shape == (2, 49, 512)
    torch.testing.assert_close(tokens.mean(1), features)
    assert torch.equal(tokens[1, 2 * 7 + 5], feature_map[1, :, 2, 5])  # row-major


def test_histology_weights_lose_their_prefix_and_classifier(encoder):
    fresh = TileEncoder().eval()
    assert isinstance(fresh.backbone, ResNet18)
    load_resnet18_weights(fresh.backbone, histology_style(encoder))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(fresh(images), encoder(images))


def test_missing_key_is_refused(encoder):
    weights = histology_style(encoder)
    del weights["model.resnet.layer4.1.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"missing keys: layer4\.1\.conv2\.weight"):
        load_resnet18_weights(ResNet18(), weights)


def test_unexpected_key_is_refused(encoder):
    weights = histology_style(encoder) | {"model.projector.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unexpected keys: projector\.weight"):
        load_resnet18_weights(ResNet18(), weights)


def test_wrong_shape_is_refused_before_anything_is_loaded(encoder):
    weights = histology_style(encoder)
    weights["model.resnet.layer4.1.conv2.weight"] = torch.zeros(512, 512, 1, 1)
    fresh = ResNet18()
    before = fresh.conv1.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"layer4\.1\.conv2\.weight \(512, 512, 1, 1\)"):
        load_resnet18_weights(fresh, weights)
    assert torch.equal(fresh.conv1.weight, before)


def test_unrelated_weights_are_refused():
    with pytest.raises(CheckpointError, match=r"missing keys: conv1\.weight.* and 115 more"):
        load_resnet18_weights(ResNet18(), {})
