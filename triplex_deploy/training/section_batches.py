"""Whole sections as batches, for models that relate all spots of a slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.spot_batches import SpotBatch, batch_of


class SectionSampler:
    """One section per batch in an order shuffled by seed and epoch; tiles are not augmented."""

    def __init__(
        self,
        sections: Sequence[PreparedSection],
        labels: Sequence[NDArray[np.float32]],
        seed: int,
    ) -> None:
        self._sections = sections
        self._labels = labels
        self._seed = seed

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SpotBatch]:
        """Every section once, or one process's share: at the end a section may be in two."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._sections))
        for begin in range(0, len(order), world_size):
            step = order[begin : begin + world_size]
            yield self._whole(int(step[rank % len(step)]))

    def _whole(self, number: int) -> SpotBatch:
        rows = np.arange(self._sections[number].section.n_spots)
        spots = np.stack([np.full(len(rows), number), rows], axis=1)
        parts = batch_of(self._sections, self._labels, spots, neighborhoods=False)
        return SpotBatch(*map(torch.from_numpy, parts))
