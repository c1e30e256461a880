"""Make and check the bank: the training spots that some models look up when they predict."""

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
from triplex_deploy.training.prepared import LabeledSections

EXCLUSIONS: Final = ("patient", "slide")
"""What the spot of an exemplar must not share with the spot that looks it up."""
_CHUNK_BYTES: Final = 64 << 20
"""Maximum memory of the distances that are held at a time."""


def fill_bank(model: SpotModel, train: LabeledSections) -> None:
    """Fill the bank of a model in evaluation mode with the training spots, if it has a bank."""
    if not model.has_bank:
        return
    device = next(model.parameters()).device
    features, expression = (torch.from_numpy(part).to(device) for part in _spots(train))
    model.set_reference_bank(features, expression)


def check_bank(fold: Fold, fitted: Sequence[str], patient_of: Mapping[str, str]) -> None:
    """Check that the bank holds no label of the test.

    Args:
        fold: The fold.
        fitted: Names of the sections in the bank.
        patient_of: Patient of each section, by name.

    Raises:
        DatasetError: A test section is in the bank, or, unless the fold shares patients, another
            section of a test patient.
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


def bank_metadata(train: LabeledSections) -> dict[str, Any]:
    """Return sections and number of spots of the bank, and the SHA-256 of features and labels."""
    digest = hashlib.sha256()
    for part in _spots(train):
        digest.update(f"{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return {
        "sections": [section.measured.name for section in train.sections],
        "spots": train.n_spots,
        "sha256": digest.hexdigest(),
    }


def _spots(train: LabeledSections) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the frozen features (R, F) of the target tiles, and the labels (R, G)."""
    features = np.concatenate([section.spot_features() for section in train.sections])
    return features, np.concatenate(train.labels)


def training_exemplars(
    features: Sequence[NDArray[np.floating[Any]]],
    patients: Sequence[str],
    k: int = 9,
    exclude: str = "patient",
) -> NDArray[np.int64]:
    """Return the ``k`` nearest spots of each training spot, nearest first.

    Sections of the same patient are nearly copies, which a test spot does not have. A spot
    therefore finds no spot of its own patient (Yang et al. 2023).

    Args:
        features: Features (N, F) of each training section, S spots in total.
        patients: Patient of each section.
        k: Number of exemplars of a spot.
        exclude: ``patient``, or ``slide`` to exclude only the spot's own section, as the published
            code does.

    Returns:
        Exemplars (S, k): numbers of spots, counted over all sections in the given order.

    Raises:
        DatasetError: A spot has fewer than ``k`` spots to find.
        ConfigError: ``k`` or ``exclude`` is not valid.
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
        # half the squared distance, minus a constant of each row
        distances = half_norms - points[chunk] @ points.T  # (C, S)
        distances[owner_of[chunk, None] == owner_of] = np.inf
        found[chunk] = _nearest(distances, k)
    return found


def _nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the columns (C, k) of the smallest values of each row, ascending."""
    columns = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(distances, columns, 1).argsort(axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _owners(patients: Sequence[str], k: int, exclude: str) -> NDArray[np.int64]:
    """Return a number for each section; sections with the same number do not find each other."""
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
