"""Draw batches of spots from the training sections, determined by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import Config, graph_specs
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections, PreparedSection

BatchArrays = tuple[NDArray[Any], ...]
"""The fields of a ``SpotBatch`` as arrays."""


class SpotBatch(NamedTuple):
    """B spots, possibly of several sections."""

    tiles: Tensor
    """Target tiles (B, 224, 224, 3), uint8 RGB."""
    neighbor_features: Tensor
    """Features (B, 25, F) of the neighborhoods; (B, 0, F) for models without that view."""
    mask: Tensor
    """True (B, 25) where the neighbor lies on the slide."""
    section: Tensor
    """Number (B,) of each spot's section among the training sections, int64."""
    row: Tensor
    """Row (B,) of each spot in its section, int64."""
    labels: Tensor
    """Labels (B, G)."""

    def to(self, device: torch.device) -> SpotBatch:
        """Return the batch on ``device``."""
        return SpotBatch(*(part.to(device) for part in self))


class Sampler(Protocol):
    """Yields the spots of the training sections, each once per epoch."""

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SpotBatch]:
        """Yield the batches of one epoch, or the share of process ``rank`` of each batch."""


def sample_spots(config: Config, train: LabeledSections, options: TrainOptions) -> Sampler:
    """Return a sampler of batches that mix the spots of all sections."""
    return SpotSampler(
        train.sections,
        train.labels,
        options.batch_size,
        options.seed,
        options.augment,
        neighborhoods="neighbor_encoder" in graph_specs(config),
    )


def sample_sections(config: Config, train: LabeledSections, options: TrainOptions) -> Sampler:
    """Return a sampler of whole sections."""
    return SectionSampler(train.sections, train.labels, options.seed)


class SpotSampler:
    """Shuffles the spots of all sections and cuts them into batches; tiles are read when needed."""

    def __init__(
        self,
        sections: Sequence[PreparedSection],
        labels: Sequence[NDArray[np.float32]],
        batch_size: int,
        seed: int,
        augment: bool,
        neighborhoods: bool = True,
    ) -> None:
        """Take sections and their labels.

        Args:
            sections: The training sections.
            labels: Labels (N, G) of each section.
            batch_size: Spots per batch over all processes.
            seed: Seed of order and augmentation.
            augment: Flip and turn tiles at random.
            neighborhoods: Read the features of the neighborhoods.
        """
        self._sections = sections
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._neighborhoods = neighborhoods
        counts = [section.measured.n_spots for section in sections]
        self._spots = np.array(
            [(s, row) for s, count in enumerate(counts) for row in range(count)], np.int64
        )  # (S, 2)

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SpotBatch]:
        """Yield the batches of one epoch, or the share of process ``rank`` of each batch.

        All shares have the same size. Where a batch does not divide evenly, a few of its spots are
        in two shares.
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._spots))
        for step, begin in enumerate(range(0, len(order), self._batch_size)):
            batch = order[begin : begin + self._batch_size]
            share = -(-len(batch) // world_size)  # equal, or processes would wait for each other
            chosen = np.sort(batch[(rank + world_size * np.arange(share)) % len(batch)])
            generator = np.random.default_rng([self._seed, epoch, step, rank])
            yield self._batch(self._spots[chosen], generator)

    def _batch(self, spots: NDArray[np.int64], rng: np.random.Generator) -> SpotBatch:
        tiles, *rest = gather_batch(self._sections, self._labels, spots, self._neighborhoods)
        if self._augment:
            tiles = augment_tiles(tiles, rng)
        return SpotBatch(*map(torch.from_numpy, (tiles, *rest)))


class SectionSampler:
    """Yields whole sections as batches, in an order shuffled by seed and epoch; no augmentation."""

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
        """Yield every section once, or the share of process ``rank``.

        Where the sections do not divide evenly, the last step repeats a few in two shares.
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._sections))
        for begin in range(0, len(order), world_size):
            step = order[begin : begin + world_size]
            yield self._whole(int(step[rank % len(step)]))

    def _whole(self, number: int) -> SpotBatch:
        rows = np.arange(self._sections[number].measured.n_spots)
        spots = np.stack([np.full(len(rows), number), rows], axis=1)
        arrays = gather_batch(self._sections, self._labels, spots, neighborhoods=False)
        return SpotBatch(*map(torch.from_numpy, arrays))


def gather_batch(
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    spots: NDArray[np.int64],
    neighborhoods: bool,
) -> BatchArrays:
    """Return the fields of a ``SpotBatch``.

    Args:
        sections: The training sections.
        labels: Labels (N, G) of each section.
        spots: Section number and row (B, 2) of each spot, ordered by section.
        neighborhoods: Read the features of the neighborhoods.
    """
    parts = []
    for number in np.unique(spots[:, 0]).tolist():
        section, rows = sections[number], spots[spots[:, 0] == number, 1]
        around = section.neighbor_features(rows if neighborhoods else rows[:0])
        if not neighborhoods:
            around = np.empty((len(rows), 0, around.shape[2]), np.float32)
        tiles = np.asarray(section.tiles[rows])
        parts.append((tiles, around, section.neighbor_mask[rows], labels[number][rows]))
    tiles, features, mask, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    section_number, row = spots.T.copy()
    return tiles, features, mask, section_number, row, values


def augment_tiles(tiles: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return tiles (B, h, h, 3) mirrored, flipped and turned by 90 degrees, each at p = 0.5."""
    augmented = np.empty_like(tiles)
    for i, (mirror, flip, turn) in enumerate(rng.random((len(tiles), 3)) < 0.5):
        tile = tiles[i, ::-1] if flip else tiles[i]
        tile = tile[:, ::-1] if mirror else tile
        augmented[i] = np.rot90(tile) if turn else tile
    return augmented
