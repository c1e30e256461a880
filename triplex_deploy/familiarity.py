"""Describe the tiles that a model was trained on, and say how like them other tiles are.

Only the frozen features of tiles are looked at. So it finds tissue, scanners and pictures that the
tile encoder sees as different, and no change that the encoder is blind to, such as exchanged
colors. See docs/accuracy.md, "Familiar tissue".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BundleError, ContractError
from triplex_deploy.files.npz import read_npz

FAMILIARITY: Final = "familiarity.npz"
"""Name of the file in a bundle."""
DIRECTIONS: Final = 64
"""Largest number of principal directions that are kept."""
MIN_TILES: Final = 200
"""Fewest training tiles that can be described."""
MAX_TILES: Final = 50_000
"""Most tiles that are looked at; of more, these many are drawn."""
PARTS: Final = 4
"""Parts of the training tiles; the distances of each are measured from the others."""
QUANTILES: Final = 1001
"""Number of kept quantiles of the training tiles' distances."""
UNFAMILIAR_BELOW: Final = 0.01
"""A tile is unfamiliar if fewer than this share of the training tiles lie further away."""
_SEED: Final = 2024
_SMALLEST: Final = 1e-12
"""Least variance, so that a constant feature divides by no zero."""


@dataclass(frozen=True, eq=False)
class TrainingTiles:
    """The distribution of the features of the training tiles.

    The distance of a tile with feature f is sqrt(mean(z² / σ²) + |c − Vᵀz|² / r), with c = f − μ
    and z = V c: its mean squared place along the leading directions, each in units of the training
    tiles' spread, and what lies outside these directions, in units of the training tiles' mean.

    Raises:
        ContractError: If the arrays do not fit together.
    """

    mean: NDArray[np.float32]
    """μ (F,), mean feature."""
    directions: NDArray[np.float32]
    """V (K, F), leading principal directions, orthonormal."""
    variances: NDArray[np.float32]
    """σ² (K,), variance along each direction."""
    residual: float
    """r, mean squared length of what lies outside the directions."""
    distances: NDArray[np.float32]
    """Quantiles (Q,) of the training tiles' distances, from the least to the greatest."""

    def __post_init__(self) -> None:
        count, width = self.directions.shape if self.directions.ndim == 2 else (0, 0)
        fits = (
            count >= 1
            and self.mean.shape == (width,)
            and self.variances.shape == (count,)
            and self.distances.ndim == 1
            and len(self.distances) >= 2
        )
        arrays = (self.mean, self.directions, self.variances, self.distances)
        finite = all(np.isfinite(array).all() for array in arrays) and np.isfinite(self.residual)
        positive = self.residual > 0 and bool((self.variances > 0).all())
        if not (fits and finite and positive and (np.diff(self.distances) >= 0).all()):
            raise ContractError("familiarity: the arrays do not fit together; train again")

    @classmethod
    def describe(cls, features: Sequence[NDArray[np.float32]]) -> TrainingTiles | None:
        """Return the description of training tiles; None if they are too few.

        Args:
            features: Features (T, F) of the tiles of each section.
        """
        if sum(map(len, features)) < MIN_TILES:
            return None
        tiles = _drawn(features)
        part = np.arange(len(tiles)) % PARTS
        distances = [  # of tiles that were not looked at, as those of a slide to be predicted
            cls._of(tiles[part != left_out]).distance(tiles[part == left_out])
            for left_out in range(PARTS)
        ]
        quantiles = np.quantile(np.concatenate(distances), np.linspace(0, 1, QUANTILES))
        return replace(cls._of(tiles), distances=quantiles.astype(np.float32))

    @classmethod
    def _of(cls, tiles: NDArray[np.float32]) -> TrainingTiles:
        """Return the description of features (T, F), without the quantiles of the distances."""
        mean = tiles.mean(axis=0, dtype=np.float64)
        centered = tiles - mean
        values, vectors = np.linalg.eigh(centered.T @ centered / (len(tiles) - 1))  # smallest first
        count = min(DIRECTIONS, len(tiles) // 2, len(mean) - 1)
        directions = vectors[:, : -count - 1 : -1].T
        outside = (centered**2).sum(axis=1) - ((centered @ directions.T) ** 2).sum(axis=1)
        return cls(
            mean=mean.astype(np.float32),
            directions=np.ascontiguousarray(directions, np.float32),
            variances=np.maximum(values[: -count - 1 : -1], _SMALLEST).astype(np.float32),
            residual=float(np.float32(max(outside.mean(), _SMALLEST))),
            distances=np.array([0, 1], np.float32),
        )

    def distance(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the distance (B,) of tiles with ``features`` (B, F) from the training tiles."""
        centered = features.astype(np.float64) - self.mean
        along = centered @ self.directions.T.astype(np.float64)
        outside = np.maximum((centered**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        inside = (along**2 / self.variances).mean(axis=1)
        distance: NDArray[np.float64] = np.sqrt(inside + outside / self.residual)
        return distance

    def familiarity(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return the share (B,) of training tiles that lie further away, from 0 to 1."""
        levels = np.linspace(0, 1, len(self.distances))
        nearer = np.interp(self.distance(features), self.distances, levels)
        return (1 - nearer).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return everything as arrays by name, for a file."""
        return {**vars(self), "residual": np.array(self.residual, np.float32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingTiles:
        """Return the description of which ``arrays`` returned this.

        Raises:
            ContractError: If an array is missing or has another type or shape.
        """
        names = cls.__dataclass_fields__
        if set(arrays) != set(names):
            raise ContractError("familiarity: arrays are missing or unknown; train again")
        floats = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        residual = floats.pop("residual")
        if residual.size != 1:
            raise ContractError("familiarity: residual is no number; train again")
        return cls(residual=float(residual.reshape(())), **floats)


def read_training_tiles(path: Path) -> TrainingTiles:
    """Read the file ``FAMILIARITY`` of a bundle.

    Raises:
        BundleError: If the file cannot be read.
    """
    arrays = read_npz(path, BundleError, "cannot be read", "export the bundle again")
    try:
        return TrainingTiles.from_arrays(arrays)
    except ContractError as error:
        raise BundleError(f"{path}: {error}") from error


def _drawn(features: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the features (T, F) of all tiles, or of ``MAX_TILES`` drawn at random."""
    count = sum(map(len, features))
    if count <= MAX_TILES:
        return np.concatenate([np.asarray(part) for part in features])
    chosen = np.sort(np.random.default_rng(_SEED).choice(count, MAX_TILES, replace=False))
    ends = np.cumsum([0, *map(len, features)])
    parts = np.split(chosen, np.searchsorted(chosen, ends[1:-1]))
    return np.concatenate(
        [
            np.asarray(part[rows - begin])
            for part, rows, begin in zip(features, parts, ends[:-1], strict=True)
        ]
    )
