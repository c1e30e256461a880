"""Batches of spots drawn over all training sections, a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.training.prepared import PreparedSection


class SpotBatch(NamedTuple):
    """B spots, possibly of several sections; ``section`` and ``row`` say which they are."""

    tiles: Tensor  # (B, 224, 224, 3) uint8
    neighbor_features: Tensor  # (B, 25, F), or (B, 0, F) for models without that view
    mask: Tensor  # (B, 25) bool
    section: Tensor  # (B,) int64
    row: Tensor  # (B,) int64
    labels: Tensor  # (B, G)

    def to(self, device: torch.device) -> SpotBatch:
        return SpotBatch(*(part.to(device) for part in self))


Sampled = tuple[NDArray[Any], ...]


class Sampler(Protocol):
    """Deals the spots of the training sections, every one once an epoch."""

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SpotBatch]:
        """The batches of one epoch, or one process's share of each."""


class SpotSampler:
    """Cuts the shuffled spots of ``sections`` into batches; tiles are read as they are needed.

    ``neighborhoods`` False leaves out the features around the spots.
    """

    def __init__(
        self,
        sections: Sequence[PreparedSection],
        labels: Sequence[NDArray[np.float32]],
        batch_size: int,
        seed: int,
        augment: bool,
        neighborhoods: bool = True,
    ) -> None:
        self._sections = sections
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._neighborhoods = neighborhoods
        counts = [one.section.n_spots for one in sections]
        self._spots = np.array(
            [(s, row) for s, count in enumerate(counts) for row in range(count)], np.int64
        )  # (S, 2)

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SpotBatch]:
        """The batches of one epoch, or one process's share of each.

        Shares are equally large: of a batch that does not divide, a few spots are in two.
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._spots))
        for step, begin in enumerate(range(0, len(order), self._batch_size)):
            batch = order[begin : begin + self._batch_size]
            share = -(-len(batch) // world_size)  # equal, or processes would wait for each other
            chosen = np.sort(batch[(rank + world_size * np.arange(share)) % len(batch)])
            generator = np.random.default_rng([self._seed, epoch, step, rank])
            yield self._batch(self._spots[chosen], generator)

    def _batch(self, spots: NDArray[np.int64], rng: np.random.Generator) -> SpotBatch:
        tiles, *rest = batch_of(self._sections, self._labels, spots, self._neighborhoods)
        if self._augment:
            tiles = augment_tiles(tiles, rng)
        return SpotBatch(*map(torch.from_numpy, (tiles, *rest)))


def batch_of(
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    spots: NDArray[np.int64],
    neighborhoods: bool,
) -> Sampled:
    """The fields of a ``SpotBatch`` of ``spots`` (B, 2): section and row, ordered by section."""
    parts = []
    for s in np.unique(spots[:, 0]).tolist():
        one, rows = sections[s], spots[spots[:, 0] == s, 1]
        seen = rows if neighborhoods else rows[:0]
        around = one.neighbor_features(seen)
        parts.append(
            (
                np.asarray(one.tiles[rows]),
                around if neighborhoods else np.empty((len(rows), 0, around.shape[2]), np.float32),
                one.neighbor_mask[rows],
                labels[s][rows],
            )
        )
    tiles, features, mask, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    section, row = spots.T.copy()
    return tiles, features, mask, section, row, values


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


def augment_tiles(tiles: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip tiles (B, h, h, 3) left-right, up-down and turn them by 90 degrees, each at p = 0.5."""
    augmented = np.empty_like(tiles)
    for i, (mirror, flip, turn) in enumerate(rng.random((len(tiles), 3)) < 0.5):
        tile = tiles[i, ::-1] if flip else tiles[i]
        tile = tile[:, ::-1] if mirror else tile
        augmented[i] = np.rot90(tile) if turn else tile
    return augmented
