"""The training spots that some models look up when they predict, and who may be among them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.data import Fold
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.models import SpotModel
from triplex_deploy.training.prepared import LabelledSections


def fill_bank(model: SpotModel, train: LabelledSections) -> None:
    """Let a model in evaluation mode remember the spots it is fitted on, if it has a bank."""
    if not model.has_bank:
        return
    device = next(model.parameters()).device
    features, expression = (torch.from_numpy(part).to(device) for part in _spots(train))
    model.set_reference_bank(features, expression)


def check_bank(fold: Fold, fitted: Sequence[str], patient_of: Mapping[str, str]) -> None:
    """Raise ``DatasetError`` where a label to be tested on would be in the bank.

    No tested section may be in it, nor another of its patient, unless the fold says it shares them.
    """
    own = sorted(set(fitted) & set(fold.test))
    if own:
        raise DatasetError(
            f"fold {fold.name}: {', '.join(own)} would be looked up and tested on; "
            "make folds whose sides share no section"
        )
    shared = sorted({patient_of[name] for name in fitted} & {patient_of[n] for n in fold.test})
    if shared and not fold.shares_patients:
        raise DatasetError(
            f"fold {fold.name}: patients {', '.join(shared)} would be looked up and tested on; "
            "make folds by patient, or folds that say they share patients"
        )


def bank_metadata(train: LabelledSections) -> dict[str, Any]:
    """Whose spots the bank holds, how many, and the SHA-256 of their features and labels."""
    digest = hashlib.sha256()
    for part in _spots(train):
        digest.update(f"{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return {
        "sections": [section.measured.name for section in train.sections],
        "spots": train.n_spots,
        "sha256": digest.hexdigest(),
    }


def _spots(train: LabelledSections) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Frozen features (R, F) of the spots' own tiles, and labels (R, G)."""
    features = np.concatenate([section.spot_features() for section in train.sections])
    return features, np.concatenate(train.labels)


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
