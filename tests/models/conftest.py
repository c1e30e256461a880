"""Fixtures: reference numbers of the published code, and small TRIPLEX models and inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from triplex_deploy.contract import ModelConfig
from triplex_deploy.models import Triplex, build_model

RELATIVE_TOLERANCE = 1e-5
TINY = ModelConfig(
    n_genes=7,
    fusion_depth=2,
    global_depth=2,
    neighbor_depth=1,
    fusion_heads=4,
    global_heads=8,
    neighbor_heads=4,
    fusion_mlp_ratio=0.5,
    global_mlp_ratio=0.5,
    neighbor_mlp_ratio=0.5,
)


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Golden:
    """Holds the arrays of a reference file; ``sd__`` are weights and ``grad__`` their gradients."""

    arrays: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}__"
        return {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)}

    def number(self, name: str) -> int:
        return int(self.arrays[name])


@pytest.fixture
def golden(shared_data: Path) -> Callable[[str], Golden]:
    def load(name: str) -> Golden:
        with np.load(shared_data / "goldens" / "micro" / f"{name}.npz") as file:
            return Golden({key: torch.from_numpy(file[key]) for key in file.files})

    return load


@pytest.fixture
def matches() -> Callable[[Tensor, Tensor], None]:
    """Assert max|ours - reference| <= 1e-5 max|reference|."""

    def check(ours: Tensor, reference: Tensor) -> None:
        assert ours.shape == reference.shape
        scale = reference.abs().max().clamp(min=1e-30)
        error = float((ours.detach() - reference).abs().max() / scale)
        assert error <= RELATIVE_TOLERANCE

    return check


@pytest.fixture
def matches_gradients(
    matches: Callable[[Tensor, Tensor], None],
) -> Callable[[torch.nn.Module, dict[str, Tensor]], None]:
    """Assert that the gradient of every parameter equals the reference, by our key names."""

    def check(module: torch.nn.Module, reference: dict[str, Tensor]) -> None:
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        assert gradients.keys() == reference.keys()
        for name, gradient in gradients.items():
            assert gradient is not None, name
            matches(gradient, reference[name])

    return check


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return TINY


@pytest.fixture
def tiny_model() -> Triplex:
    """Return a small seeded model in evaluation mode; its bias tables are not zero."""
    model = build_model(TINY, seed=1).eval()
    assert isinstance(model, Triplex)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias.table"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@dataclass(frozen=True)
class SlideInputs:
    """Holds the inputs of ``Triplex.forward`` for all N spots of a slide."""

    images: Tensor
    neighbor_features: Tensor
    mask: Tensor
    slide_features: Tensor
    apeg_index: Tensor

    def arguments(self, spots: Tensor) -> tuple[Tensor, ...]:
        return (
            self.images[spots],
            self.neighbor_features[spots],
            self.mask[spots],
            self.slide_features,
            self.apeg_index,
            spots,
        )


def brute_force_apeg_index(grid_rc: Tensor, kernel: int = 3) -> Tensor:
    """Return the spot at each (drow, dcol) of every spot; -1 means none."""
    spot_at = {(int(row), int(col)): spot for spot, (row, col) in enumerate(grid_rc)}
    reach = range(-(kernel // 2), kernel // 2 + 1)
    return torch.tensor(
        [
            [
                spot_at.get((int(row) + drow, int(col) + dcol), -1)
                for drow in reach
                for dcol in reach
            ]
            for row, col in grid_rc
        ]
    )


@pytest.fixture(scope="session")
def apeg_index_of() -> Callable[..., Tensor]:
    return brute_force_apeg_index


@pytest.fixture(scope="session")
def slide_inputs() -> SlideInputs:
    """Return six spots on an irregular array, with images of 64 px, so that tests are fast."""
    generator = torch.Generator().manual_seed(3)
    grid_rc = torch.tensor([[2, 2], [2, 3], [3, 2], [5, 5], [3, 3], [2, 5]])
    mask = torch.rand((6, 25), generator=generator) > 0.3
    mask[:, 12] = True
    return SlideInputs(
        images=torch.randn((6, 3, 64, 64), generator=generator),
        neighbor_features=torch.randn((6, 25, 512), generator=generator),
        mask=mask,
        slide_features=torch.randn((6, 512), generator=generator),
        apeg_index=brute_force_apeg_index(grid_rc),
    )
