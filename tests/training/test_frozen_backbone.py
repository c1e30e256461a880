"""Maps of a frozen backbone are those of PyTorch, whichever runtime computes them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from triplex_deploy.models import TargetEncoder
from triplex_deploy.runtime.cpu_choice import installed_on_cpu
from triplex_deploy.training import encoder_runner, frozen_backbone
from triplex_deploy.training.frozen_backbone import BackboneMaps
from triplex_deploy.training.images import normalize_tiles

N_TILES = 6
"""More than a call takes, and no multiple of it."""


@pytest.fixture
def section() -> Any:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (N_TILES, 224, 224, 3))
    tiles = (255 - noise * np.linspace(0.2, 1, N_TILES).reshape(-1, 1, 1, 1)).astype(np.uint8)
    return SimpleNamespace(tiles=tiles, measured=SimpleNamespace(name="A1"))


@pytest.fixture
def encoder() -> TargetEncoder:
    torch.manual_seed(0)
    return TargetEncoder("resnet18", 8).eval()


@pytest.mark.parametrize("installed", [True, False])
def test_maps_are_those_of_pytorch(
    encoder: TargetEncoder, section: Any, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sections run through the runtime of prediction; without one, PyTorch computes them."""
    if not installed:
        for module in (frozen_backbone, encoder_runner):
            monkeypatch.setattr(module, "installed_on_cpu", list)
    maps = BackboneMaps(encoder, torch.device("cpu"))
    found = maps.of(section)
    with torch.inference_mode():
        wanted = encoder.map_tokens(normalize_tiles(torch.from_numpy(section.tiles)))
    assert (found.shape, found.dtype) == (wanted.shape, torch.float16)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=2e-3)
    backend = maps._runner.running.backend
    assert backend == (installed_on_cpu()[0].name if installed else "torch")
    assert maps.of(section) is found


def test_weights_of_the_model_and_the_random_numbers_stay(
    encoder: TargetEncoder, section: Any
) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    BackboneMaps(encoder, torch.device("cpu")).of(section)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert value.is_contiguous(), key
