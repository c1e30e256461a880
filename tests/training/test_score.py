"""Which epoch is the best."""

import numpy as np
import torch

from triplex_deploy.models.bleep import contrastive_loss
from triplex_deploy.training.score import _contrastive


def test_contrastive_loss_is_of_128_spots_at_a_time_whatever_the_slides() -> None:
    generator = torch.Generator().manual_seed(1)
    images, expression = (torch.randn(300, 8, generator=generator) for _ in range(2))
    rows = torch.from_numpy(np.random.default_rng(0).permutation(300))
    parts = [
        contrastive_loss(images[part], expression[part]) for part in (rows[:128], rows[128:256])
    ]
    assert np.isclose(_contrastive(images, expression, 1.0), float(sum(parts)) / 2)


def test_few_spots_are_one_batch() -> None:
    images, expression = torch.eye(5), 2 * torch.eye(5)
    expected = float(contrastive_loss(images, expression, 0.5))
    assert np.isclose(_contrastive(images, expression, 0.5), expected)
