"""The training spots that some models look up when they predict, and who may be among them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.data import Fold
from triplex_deploy.errors import DatasetError
from triplex_deploy.models import SpotModel
from triplex_deploy.training.labelled import LabelledSections


def fill_bank(model: SpotModel, train: LabelledSections) -> None:
    """Let a model in evaluation mode remember the spots it is fitted on, if it has a bank."""
    if not model.has_bank:
        return
    device = next(model.parameters()).device
    features, expression = (torch.from_numpy(part).to(device) for part in _spots(train))
    model.remember(features, expression)


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


def bank_facts(train: LabelledSections) -> dict[str, Any]:
    """Whose spots the bank holds, how many, and the SHA-256 of their features and labels."""
    digest = hashlib.sha256()
    for part in _spots(train):
        digest.update(f"{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return {
        "sections": [one.section.name for one in train.sections],
        "spots": train.n_spots,
        "sha256": digest.hexdigest(),
    }


def _spots(train: LabelledSections) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Frozen features (R, F) of the spots' own tiles, and labels (R, G)."""
    features = np.concatenate([one.spot_features() for one in train.sections])
    return features, np.concatenate(train.labels)
