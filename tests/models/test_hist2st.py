"""Hist2ST: its size, its image encoder and graph, order of spots, edge cases, exporting."""

import pytest
import torch
import torch.nn.functional as F

from tests.models import networks
from tests.models.slide_export import assert_exports
from triplex_deploy.models.hist2st import (
    ConvMixerBlock,
    GraphLayer,
    SpotGraph,
    neighbor_mean,
)
from triplex_deploy.tiles.spot_tables import adjacency_index

GENES, TILE_PX, SPOTS = 6, 32, 20
SMALL = {
    "patch_px": 28,
    "mixer_depth": 1,
    "depth": 1,
    "graph_depth": 2,
    "heads": 4,
    "n_pos": 9,
}  # tokens of width 64
TRAINING_ONLY = ("zinb_heads.", "distillation_weight.")


@pytest.fixture
def model():
    torch.manual_seed(1)
    return with_batch_statistics(networks.hist2st(GENES, **SMALL)).eval()


def with_batch_statistics(module):
    """Return the model with statistics other than zero and one, so that a misplaced norm shows."""
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return module


@pytest.fixture
def slide():
    """Return tiles, (column, row) and neighbors of 20 spots, 4 rows of 5."""
    torch.manual_seed(2)
    grid_xy = torch.tensor([(i % 5, i // 5) for i in range(SPOTS)])
    adjacency = torch.from_numpy(adjacency_index(grid_xy.flip(1).numpy()))
    return torch.randn(SPOTS, 3, TILE_PX, TILE_PX), grid_xy, adjacency


def test_published_sizes():
    with torch.device("meta"):
        model = networks.hist2st()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    deployed = {name: n for name, n in sizes.items() if not name.startswith(TRAINING_ONLY)}
    assert sum(sizes.values()) == 73_596_333
    assert sum(deployed.values()) == 71_776_958
    assert model.target_encoder.dim == 1024


@torch.inference_mode()
def test_a_token_is_the_map_of_the_middle_112_pixels():
    """Cell (row 2, column 3) of the first kept channel, with convolutions that only copy."""
    model = networks.hist2st(GENES, depth=1, mixer_depth=1, graph_depth=1).eval()
    model.target_encoder.blocks = torch.nn.Sequential()
    stem, squeeze = model.target_encoder.stem, model.target_encoder.squeeze
    for convolution in (stem, squeeze):
        convolution.weight.zero_()
        assert convolution.bias is not None
        convolution.bias.zero_()
    stem.weight[0, 1, 6, 5] = 1.0  # green, row 6, column 5 of each 7 x 7 cell
    squeeze.weight[0, 0] = 1.0
    tile = torch.randn(1, 3, 224, 224)
    token = model.encode_targets(tile)
    assert token.shape == (1, 1, 1024)
    assert token[0, 0, 2 * 16 + 3] == tile[0, 1, 56 + 2 * 7 + 6, 56 + 3 * 7 + 5]
    assert not token[0, 0, 256:].any()


@torch.inference_mode()
def test_a_mixer_block_has_its_shortcut_around_the_depthwise_part_alone():
    torch.manual_seed(3)
    block = with_batch_statistics(ConvMixerBlock(4, kernel=5)).eval()
    cells = torch.randn(2, 4, 6, 6)
    first, first_norm, _, second, second_norm, _ = block.depthwise
    mixed = F.gelu(second_norm(second(F.gelu(first_norm(first(cells))))))
    expected = block.norm(F.gelu(block.pointwise(cells + mixed)))
    torch.testing.assert_close(block(cells), expected)
    assert first.weight.shape == second.weight.shape == (4, 1, 5, 5)
    assert block.pointwise.weight.shape == (4, 4, 1, 1)


def test_neighbors_are_averaged_over_those_that_exist():
    tokens = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]])
    adjacency = torch.tensor([[1, 2, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]])
    assert neighbor_mean(tokens, adjacency).tolist() == [[4.0, 40.0], [1.0, 10.0], [0.0, 0.0]]


@torch.inference_mode()
def test_a_graph_layer_reads_the_neighbors_and_not_the_spot_itself(slide):
    torch.manual_seed(3)
    layer, adjacency = GraphLayer(16), slide[2]
    tokens = torch.randn(SPOTS, 16)
    before = layer(tokens, adjacency)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(SPOTS))
    tokens[7] += 1.0
    changed = (layer(tokens, adjacency) != before).any(1)
    assert changed.tolist() == (adjacency == 7).any(1).tolist()
    assert not changed[7]


@torch.inference_mode()
def test_the_lstm_reads_layer_after_layer_and_its_states_are_averaged(slide):
    torch.manual_seed(3)
    graph, adjacency = SpotGraph(16, depth=3), slide[2]
    tokens = layer_output = torch.randn(SPOTS, 16)
    outputs = []
    for layer in graph.layers:
        layer_output = layer(layer_output, adjacency)
        outputs.append(layer_output)
    one_by_one = [
        graph.lstm(torch.stack([out[spot] for out in outputs]))[0] for spot in range(SPOTS)
    ]
    expected = torch.stack([states.mean(0) for states in one_by_one])
    torch.testing.assert_close(graph(tokens, adjacency), expected)


@torch.inference_mode()
def test_an_isolated_spot_is_finite_and_equal_to_any_other(model):
    """The graph layers give it zeros, which all later layers read."""
    torch.manual_seed(4)
    images, grid_xy = torch.randn(3, 3, TILE_PX, TILE_PX), torch.tensor([[0, 0], [8, 0], [0, 8]])
    void = torch.full((3, 4), -1)
    expression = model(images, grid_xy, void)
    alone = model(images[:1], grid_xy[:1], void[:1])
    assert expression.isfinite().all()
    torch.testing.assert_close(expression, alone.expand(3, GENES))


def test_gradients_with_an_isolated_spot_are_finite(model, slide):
    images, grid_xy, adjacency = slide
    adjacency[4] = -1
    model(images, grid_xy, adjacency).square().sum().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.inference_mode()
def test_permuted_spots_give_permuted_predictions(model, slide):
    images, grid_xy, adjacency = slide
    order = torch.randperm(SPOTS, generator=torch.Generator().manual_seed(3))
    new_number = torch.cat((order.argsort(), torch.tensor([-1])))  # the last one is of 'none'
    permuted = model(images[order], grid_xy[order], new_number[adjacency[order]])
    expected = model(images, grid_xy, adjacency)[order]
    assert expected.std(0).min() > 1e-4  # spots differ, so that their order shows
    torch.testing.assert_close(permuted, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_predictions_repeat_in_eval_mode_alone(model, slide):
    assert torch.equal(model(*slide), model(*slide))
    model.train()
    assert not torch.equal(model(*slide), model(*slide))


def test_it_exports_for_slides_of_any_size_without_what_only_training_needs(model):
    generator = torch.Generator().manual_seed(5)

    def slide_of(count):
        images = torch.randn(count, 3, TILE_PX, TILE_PX, generator=generator)
        grid_xy = torch.randint(0, 9, (count, 2), generator=generator)
        adjacency = torch.randint(-1, count, (count, 4), generator=generator)
        return {"images": images, "grid_xy": grid_xy, "adjacency": adjacency}

    graph = assert_exports(model, slide_of, (1, 2, 33)).graph
    assert sum(node.op_type == "LSTM" for node in graph.node) == 2
    names = [weight.name for weight in graph.initializer]
    assert not [name for name in names if "zinb" in name or "distillation" in name]
