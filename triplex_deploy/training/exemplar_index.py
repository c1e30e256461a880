"""Exemplars of the training spots themselves, which must not find their own tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError, DatasetError

EXCLUSIONS: Final = ("patient", "slide")
_CHUNK_BYTES: Final = 64 << 20
"""Distances held at a time; every spot has one to every other."""


def training_exemplars(
    features: Sequence[NDArray[np.floating[Any]]],
    patients: Sequence[str],
    k: int = 9,
    exclude: str = "patient",
) -> NDArray[np.int64]:
    """The ``k`` spots nearest to each of the S spots of a fold's training sections, nearest first.

    ``features`` (N, F) and patient of each section; the rows (S, k) count the spots of all sections
    in that order. A spot never finds its own ``patient`` (Yang et al. 2023), whose other sections
    are near copies as no test spot has them; with ``exclude`` "slide", as published code does, only
    its own section is left out. Raises ``DatasetError`` where fewer than ``k`` spots are left, and
    ``ConfigError`` for values that are never right.
    """
    owners = _owners(patients, k, exclude)
    sizes = [len(part) for part in features]
    _check_enough(owners, sizes, k, exclude)
    owner_of = np.repeat(owners, sizes)  # (S,)
    points = np.concatenate(features).astype(np.float64)  # (S, F)
    half_norms = 0.5 * (points**2).sum(1)
    rows = max(1, _CHUNK_BYTES // (8 * len(points)))
    found = np.empty((len(points), k), np.int64)
    for begin in range(0, len(points), rows):
        chunk = slice(begin, begin + rows)
        # half the squared distance, but for a constant of each query
        distances = half_norms - points[chunk] @ points.T  # (C, S)
        distances[owner_of[chunk, None] == owner_of] = np.inf
        found[chunk] = _nearest(distances, k)
    return found


def _nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Columns (C, k) of the smallest values of each row, ascending."""
    columns = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(distances, columns, 1).argsort(axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _owners(patients: Sequence[str], k: int, exclude: str) -> NDArray[np.int64]:
    """A number for each section; those of one number do not find each other."""
    if exclude not in EXCLUSIONS:
        raise ConfigError(f"exclude={exclude!r}: not known; use {' or '.join(EXCLUSIONS)}")
    if k < 1:
        raise ConfigError(f"n_exemplars={k}: use at least 1")
    if len(patients) < 2:
        raise DatasetError(
            "exemplars: one training section leaves no other to retrieve from; add a section"
        )
    if exclude == "slide":
        return np.arange(len(patients))
    if len(set(patients)) < 2:
        raise DatasetError(
            f"exemplars: all {len(patients)} training sections are of patient {patients[0]}; add a "
            "patient, or use exclude=slide, with which spots find their own patient"
        )
    return np.unique(np.asarray(patients), return_inverse=True)[1]


def _check_enough(owners: NDArray[np.int64], sizes: list[int], k: int, exclude: str) -> None:
    least = sum(sizes) - int(np.bincount(owners, weights=sizes).max())
    if least < k:
        raise DatasetError(
            f"exemplars: some spots have only {least} of another {exclude} to retrieve from, not "
            f"{k}; use a smaller n_exemplars, or add sections"
        )
