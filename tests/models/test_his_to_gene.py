"""HisToGene: its size, its patch, its coordinates, learning and exporting."""

import pytest
import torch
import torch.nn.functional as F

from tests.models import networks
from tests.models.slide_export import assert_exports

GENES, TILE_PX = 6, 32
SMALL = {"patch_px": 16, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 64, "n_pos": 9}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return networks.his_to_gene(GENES, **SMALL).eval()


@pytest.fixture
def slide():
    """Return tiles and (column, row) of 20 spots, 4 rows of 5."""
    torch.manual_seed(2)
    grid_xy = torch.tensor([(i % 5, i // 5) for i in range(20)])
    return torch.randn(20, 3, TILE_PX, TILE_PX), grid_xy


@pytest.mark.parametrize(("depth", "parameters"), [(8, 106_099_962), (4, 72_512_762)])
def test_published_sizes(depth, parameters):
    with torch.device("meta"):
        model = networks.his_to_gene(depth=depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@torch.inference_mode()
def test_tokens_are_a_convolution_over_the_centre_of_the_tile(model, slide):
    images, _ = slide
    projection = model.target_encoder.projection
    patches = images[:, :, 8:24, 8:24]
    convolved = F.conv2d(patches, projection.weight.view(-1, 3, 16, 16), projection.bias, 16)
    tokens = model.encode_targets(images)
    assert tokens.shape == (20, 1, 64)
    torch.testing.assert_close(tokens[:, 0], convolved[:, :, 0, 0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_of_a_tile_the_middle_112_pixels_count():
    torch.manual_seed(0)
    model = networks.his_to_gene(GENES, dim=8, depth=1, heads=2, mlp_dim=8).eval()
    tile = torch.randn(1, 3, 224, 224)
    margin_changed, center_changed = tile.clone(), tile.clone()
    margin_changed[:, :, :56] = margin_changed[:, :, 168:] = 9.0
    margin_changed[:, :, :, :56] = margin_changed[:, :, :, 168:] = 9.0
    center_changed[:, :, 56, 167] = 9.0
    token = model.encode_targets(tile)
    assert torch.equal(model.encode_targets(margin_changed), token)
    assert not torch.equal(model.encode_targets(center_changed), token)


@torch.inference_mode()
def test_x_is_the_column_and_y_the_row(model):
    model.global_encoder.layers = torch.nn.ModuleList()
    table = torch.arange(9.0)[:, None].expand(9, 64)
    model.global_encoder.x_embedding.weight.copy_(table)
    model.global_encoder.y_embedding.weight.copy_(10 * table)
    tokens = model.encode_slide(torch.zeros(2, 1, 64), torch.tensor([[3, 1], [0, 8]]))
    assert tokens[:, 0].tolist() == [13.0, 80.0]


@torch.inference_mode()
def test_permuted_spots_give_permuted_predictions(model, slide):
    images, grid_xy = slide
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    permuted = model(images[order], grid_xy[order])
    torch.testing.assert_close(permuted, model(images, grid_xy)[order], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_every_spot_sees_every_other(model, slide):
    images, grid_xy = slide
    before = model(images, grid_xy)
    images[19] += 1.0
    assert (model(images, grid_xy) != before).any(1).all()


@torch.inference_mode()
def test_predictions_repeat_in_eval_mode_alone(model, slide):
    assert torch.equal(model(*slide), model(*slide))
    model.train()
    assert not torch.equal(model(*slide), model(*slide))


def test_twenty_spots_are_learnt_by_heart(slide):
    torch.manual_seed(4)
    model = networks.his_to_gene(GENES, **SMALL, dropout=0.0)
    labels = torch.randn(20, GENES)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = F.mse_loss(model(*slide), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert loss.item() < 0.1 * labels.var().item()


def test_it_exports_for_slides_of_any_size(model):
    generator = torch.Generator().manual_seed(5)

    def slide_of(count):
        images = torch.randn(count, 3, TILE_PX, TILE_PX, generator=generator)
        grid_xy = torch.randint(0, 9, (count, 2), generator=generator)
        return {"images": images, "grid_xy": grid_xy}

    assert_exports(model, slide_of, (1, 2, 33))
