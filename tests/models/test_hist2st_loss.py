"""The loss of Hist2ST: counts, augmented patches, distillation and learning."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from tests.models import networks
from triplex_deploy.models import hist2st as loss_module
from triplex_deploy.models import hist2st as patch_augment
from triplex_deploy.models.hist2st import (
    Zinb,
    ZinbHeads,
    augment_patches,
    cut_patches,
    hist2st_loss,
    in_gray,
    library_scale,
    zinb_nll,
)
from triplex_deploy.models.image_encoders import center_crop
from triplex_deploy.tiles.spot_tables import adjacency_index

GENES, SPOTS = 6, 20
SMALL: dict[str, Any] = {
    "patch_px": 28,
    "depth": 1,
    "graph_depth": 2,
    "heads": 4,
    "n_pos": 9,
    "dropout": 0.0,
}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return networks.hist2st(GENES, **SMALL)


@pytest.fixture
def batch():
    """Return tiles, coordinates, neighbors, labels and counts of 20 spots, 4 rows of 5."""
    torch.manual_seed(2)
    grid_xy = torch.tensor([(i % 5, i // 5) for i in range(SPOTS)])
    adjacency = torch.from_numpy(adjacency_index(grid_xy.flip(1).numpy()))
    images, labels = torch.randn(SPOTS, 3, 32, 32), torch.randn(SPOTS, GENES)
    counts = torch.poisson(torch.full((SPOTS, GENES), 3.0)).long()
    return images, grid_xy, adjacency, labels, counts


def unaltered(images, patch_px):
    return center_crop(images, patch_px)


def test_likelihood_is_that_of_zero_inflated_negative_binomial_counts():
    torch.manual_seed(0)
    counts = torch.tensor([[0.0, 1.0, 7.0], [3.0, 0.0, 120.0]], dtype=torch.float64)
    zinb = Zinb(*torch.rand(3, 2, 3, dtype=torch.float64))
    zinb = zinb._replace(mean=20 * zinb.mean, dispersion=5 * zinb.dispersion)
    scale = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    mean, size, inflation = ((zinb.mean * scale).numpy(), *(part.numpy() for part in zinb[1:]))
    chance = stats.nbinom.pmf(counts.numpy(), size, size / (size + mean))
    expected = inflation * (counts.numpy() == 0) + (1 - inflation) * chance
    expected_nll = -torch.from_numpy(expected).log().mean()
    torch.testing.assert_close(zinb_nll(counts, zinb, scale), expected_nll, rtol=1e-8, atol=0)


def test_scale_is_the_total_over_the_median_total():
    counts = torch.tensor([[10.0, 0.0], [15.0, 5.0], [60.0, 0.0]])
    assert library_scale(counts).tolist() == [[0.5], [1.0], [3.0]]
    assert library_scale(torch.tensor([[0.0], [0.0], [4.0]])).tolist() == [[0.0], [0.0], [4.0]]


def test_extreme_logits_stay_in_range_with_finite_gradients():
    heads = ZinbHeads(1, 1)
    for head in (heads.mean, heads.dispersion, heads.inflation):
        torch.nn.init.ones_(head.weight)
        torch.nn.init.zeros_(head.bias)
    zinb = heads(torch.tensor([[-1000.0], [1000.0]]))
    torch.testing.assert_close(zinb.mean.flatten(), torch.tensor([1e-5, 1e6]))
    assert zinb.dispersion.flatten().tolist() == pytest.approx([1e-4, 1000.0])
    assert heads(torch.tensor([[1e6]])).dispersion.item() == pytest.approx(1e4)
    assert zinb.inflation.flatten().tolist() == [0.0, 1.0]
    counts = torch.tensor([[5.0], [5.0]])
    zinb_nll(counts, zinb, torch.tensor([[1.0], [0.0]])).backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in heads.parameters()
    )


def test_a_patch_not_turned_is_the_centre_of_its_tile():
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    patches = cut_patches(images, 112, degrees=0.0, mirrored=False)
    torch.testing.assert_close(patches, images[:, :, 56:168, 56:168], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("degrees", "quarters"), [(0.0, 0), (90.0, 1), (-90.0, -1)])
def test_patches_are_turned_counter_clockwise_and_then_mirrored(degrees, quarters, mirrored):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.rot90(images[:, :, 4:12, 4:12], quarters, dims=(2, 3))
    expected = expected.flip(3) if mirrored else expected
    patches = cut_patches(images, 8, degrees, mirrored)
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=0)


def test_corners_of_a_turned_patch_show_the_tile_around_it():
    patches = cut_patches(torch.ones(1, 3, 224, 224), 112, degrees=45.0, mirrored=False)
    torch.testing.assert_close(patches, torch.ones(1, 3, 112, 112))


def test_gray_is_the_brightness_in_every_channel():
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    rgb = torch.tensor([0.8, 0.2, 0.6]).view(1, 3, 1, 1)
    gray = in_gray((rgb - mean) / std) * std + mean
    assert gray.flatten().tolist() == pytest.approx([0.425] * 3)  # .299 .8 + .587 .2 + .114 .6


def test_augmentations_are_as_frequent_as_published(monkeypatch):
    monkeypatch.setattr(patch_augment, "cut_patches", lambda *given, **named: (given, named))
    monkeypatch.setattr(patch_augment, "in_gray", lambda patches: (*patches, "gray"))
    torch.manual_seed(0)
    cuts: Any = [augment_patches(torch.empty(0), 8) for _ in range(4000)]
    degrees = torch.tensor([given[2] for given, *_ in cuts])
    mirrored = [named["mirrored"] for _, named, *_ in cuts]
    assert degrees.min() > -90
    assert degrees.max() < 90
    assert degrees.std().item() == pytest.approx(180 / 12**0.5, rel=0.03)  # of uniform ones
    assert sum(mirrored) / 4000 == pytest.approx(0.2, abs=0.02)
    assert sum(len(cut) == 3 for cut in cuts) / 4000 == pytest.approx(0.1, abs=0.015)


def test_all_spots_are_augmented_alike_and_the_seed_decides_how():
    tile = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    first, second = (augment_patches(tile.expand(4, -1, -1, -1), 16) for _ in range(2))
    assert torch.equal(first, first[:1].expand(4, -1, -1, -1))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(augment_patches(tile, 16), first[:1])


def test_unaltered_passes_leave_expression_and_counts(model, batch, monkeypatch):
    """They equal the prediction with any weights, so the distillation is zero."""
    monkeypatch.setattr(loss_module, "augment_patches", unaltered)
    model.eval()
    images, grid_xy, adjacency, labels, counts = batch
    tokens = model.encode_slide(model.encode_targets(images), grid_xy, adjacency)
    squares = F.mse_loss(model.predict_from_tokens(tokens), labels)
    counted = counts.float()
    likelihood = zinb_nll(counted, model.zinb_heads(tokens), library_scale(counted))
    torch.testing.assert_close(hist2st_loss(model, *batch), squares + 0.25 * likelihood)


def test_distillation_is_half_the_squared_distance_to_the_weighted_passes(
    model, batch, monkeypatch
):
    """Two passes, of the tiles at half and at twice their contrast."""
    contrasts = iter([0.5, 2.0])
    monkeypatch.setattr(
        loss_module, "augment_patches", lambda images, px: next(contrasts) * center_crop(images, px)
    )
    model.eval()
    images, grid_xy, adjacency, labels, _ = batch
    outputs, logits = [], []
    for contrast in (1.0, 0.5, 2.0):
        tokens = model.encode_targets(contrast * images)
        tokens = model.encode_slide(tokens, grid_xy, adjacency)
        outputs.append(model.predict_from_tokens(tokens))
        logits.append(model.distillation_weight(tokens))
    share = torch.sigmoid(logits[1] - logits[2])  # of the first pass, for each spot
    distilled = share * outputs[1] + (1 - share) * outputs[2]
    expected = F.mse_loss(outputs[0], labels) + 0.5 * F.mse_loss(distilled, outputs[0])
    loss = hist2st_loss(model, *batch, zinb_weight=0.0, passes=2)
    torch.testing.assert_close(loss, expected)


def test_neither_side_of_the_distillation_is_detached(model, batch):
    """A step along the gradient changes the loss as the gradient predicts."""
    images, grid_xy, adjacency, labels, counts = batch
    model.double().eval()
    given = images.double(), grid_xy, adjacency, labels.double(), counts

    def loss():
        torch.manual_seed(5)
        return hist2st_loss(model, *given, zinb_weight=0.0, distillation_weight=50.0)

    loss().backward()
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    norm = torch.cat([weight.grad.flatten() for weight in weights]).norm().item()

    def loss_after(step):
        with torch.no_grad():
            for weight in weights:
                weight += step / norm * weight.grad
            changed = loss().item()
            for weight in weights:
                weight -= step / norm * weight.grad
        return changed

    slope = (loss_after(1e-5) - loss_after(-1e-5)) / 2e-5
    assert slope == pytest.approx(norm, rel=1e-4)


def test_twenty_spots_are_learnt_by_heart(model, batch):
    images, grid_xy, adjacency, labels, _ = batch
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(50):
        loss = hist2st_loss(model, *batch, passes=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    with torch.no_grad():
        error = F.mse_loss(model(images, grid_xy, adjacency), labels)
    assert error.item() < 0.1 * labels.var().item()
