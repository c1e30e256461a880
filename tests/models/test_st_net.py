"""ST-Net: its size, its start from the mean, its symmetries, and that spots are independent."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models import networks
from triplex_deploy.errors import ConfigError
from triplex_deploy.models.spot_model import assert_eval
from triplex_deploy.models.st_net import dihedral_images

TINY: dict[str, Any] = {"growth": 4, "blocks": (2, 2), "stem_channels": 8}
GENES = 6


def build(**options):
    """Return a seeded model in evaluation mode with statistics in its batch norms."""
    torch.manual_seed(1)
    model = networks.st_net(GENES, **TINY, **options)
    model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_size_is_the_published_one():
    with torch.device("meta"):
        model = networks.st_net()
        tokens = model.encode_targets(torch.zeros(2, 3, 224, 224))
        expression = model.predict_from_tokens(tokens)
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_210_106
    assert tokens.shape == (2, 1, 1024)
    assert expression.shape == (2, 250)


def test_the_token_is_the_mean_of_the_map(images):
    model = build()
    with torch.inference_mode():
        expected = model.backbone.feature_map(images).flatten(2).mean(2)
        assert torch.equal(model(images), model.predict_from_tokens(model.encode_targets(images)))
        torch.testing.assert_close(model.encode_targets(images)[:, 0], expected)


def test_start_from_mean_predicts_it_for_every_tile(images):
    model, mean = build(), torch.tensor([0.5, 0.0, 2.0, 1.0, 3.25, 0.125])
    model.start_from_mean(mean)
    with torch.inference_mode():
        assert torch.equal(model(images), mean.expand(5, GENES))
    loss = F.mse_loss(model.train()(images), torch.zeros(5, GENES))
    loss.backward()
    assert model.expression_head.weight.grad.abs().max() > 0  # it can leave its start


def test_symmetries_are_the_eight_of_a_square():
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    array = square[0, 0].numpy()
    turned = [np.rot90(side, turns) for side in (array, array.T) for turns in range(4)]
    ours = {image.numpy().tobytes() for image in dihedral_images(square)[:, 0, 0]}
    assert len(ours) == 8
    assert ours == {np.ascontiguousarray(image).tobytes() for image in turned}


def test_eight_symmetries_average_the_predictions(images):
    plain, averaged = build(), build(symmetries=8)
    with torch.inference_mode():
        each = torch.stack([plain(image) for image in dihedral_images(images)])
        prediction = averaged(images)
        turned = averaged(images.rot90(1, (2, 3)))
    assert prediction.shape == (5, GENES)
    torch.testing.assert_close(prediction, each.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned, prediction, atol=1e-5, rtol=0)
    assert (each.std(0) > 1e-3).any()  # the images differ to the plain model


def test_training_sees_an_image_as_it_is(images):
    plain, averaged = build().train(), build(symmetries=8).train()
    assert torch.equal(averaged(images), plain(images))


def test_another_number_of_symmetries_is_refused():
    with pytest.raises(ConfigError, match="symmetries=4: a square has eight; use 8"):
        networks.st_net(symmetries=4)


@pytest.mark.parametrize("symmetries", [1, 8])
def test_predictions_do_not_depend_on_the_batch(images, symmetries):
    model = build(symmetries=symmetries)
    assert_eval(model)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
        assert torch.equal(model(images), together)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_twenty_spots_are_learnt_by_heart():
    torch.manual_seed(3)
    model = networks.st_net(GENES, **TINY)
    images, labels = torch.randn(20, 3, 32, 32), torch.randn(20, GENES)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.mse_loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert float(loss.detach()) < 0.1 * float(labels.var())
