"""The position encoding as a gather, against a dense convolution and at its edges."""

import pytest
import torch
import torch.nn.functional as F

from triplex_deploy.models.triplex import Apeg

DIM = 8


@pytest.fixture(params=[3, 5], ids=["3x3", "5x5"])
def apeg(request):
    torch.manual_seed(0)
    return Apeg(DIM, kernel=request.param)


def kernel_of(apeg):
    return int(len(apeg.weight) ** 0.5)


def dense_convolution(apeg, tokens, grid_rc):
    """Scatter to the dense array, convolve with zero padding, read the occupied cells."""
    kernel = kernel_of(apeg)
    row, col = (grid_rc - grid_rc.min(0).values).T
    dense = torch.zeros(1, DIM, int(row.max()) + 1, int(col.max()) + 1)
    dense[0, :, row, col] = tokens.T
    weight = apeg.weight.T.reshape(DIM, 1, kernel, kernel)
    out = F.conv2d(dense, weight, apeg.bias, padding=kernel // 2, groups=DIM)
    return tokens + out[0, :, row, col].T


@pytest.mark.parametrize(
    "grid_rc",
    [
        pytest.param([(r, c) for r in range(6) for c in range(7) if (3 * r + c) % 4], id="holes"),
        pytest.param([(4, c) for c in (1, 2, 3, 7)], id="one row"),
        pytest.param([(r, 9) for r in (2, 3, 5)], id="one column"),
        pytest.param([(5, 5)], id="one spot"),
    ],
)
def test_gather_equals_the_dense_convolution(apeg, apeg_index_of, grid_rc):
    grid = torch.tensor(grid_rc)
    tokens = torch.randn(len(grid), DIM)
    out = apeg(tokens, apeg_index_of(grid, kernel_of(apeg)))
    torch.testing.assert_close(out, dense_convolution(apeg, tokens, grid), atol=1e-6, rtol=0)


def test_order_of_the_spots_does_not_matter(apeg, apeg_index_of):
    grid = torch.tensor([(0, 0), (0, 1), (1, 0), (2, 2), (1, 1), (4, 1)])
    tokens = torch.randn(len(grid), DIM)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    kernel = kernel_of(apeg)
    shuffled = apeg(tokens[order], apeg_index_of(grid[order], kernel))
    assert torch.equal(shuffled, apeg(tokens, apeg_index_of(grid, kernel))[order])


def test_without_neighbors_only_residual_and_bias_remain(apeg):
    tokens = torch.randn(3, DIM)
    void = torch.full((3, len(apeg.weight)), -1)
    assert torch.equal(apeg(tokens, void), tokens + apeg.bias)
    apeg.residual = False
    assert torch.equal(apeg(tokens, void), apeg.bias.expand(3, DIM))


def test_weight_rows_run_over_row_offset_then_column_offset():
    apeg = Apeg(1, kernel=3)
    with torch.no_grad():
        apeg.weight.copy_(torch.arange(9.0)[:, None])
        apeg.bias.zero_()
    right_neighbor = torch.full((2, 9), -1)
    right_neighbor[0, 5] = 1  # (drow, dcol) = (0, 1)
    out = apeg(torch.tensor([[0.0], [100.0]]), right_neighbor)
    assert out.tolist() == [[500.0], [100.0]]
