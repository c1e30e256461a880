"""Split sections into training and test sections: docs/models.md, "Folds"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from triplex_deploy.data.dataset import natural_key
from triplex_deploy.data.section import Section
from triplex_deploy.errors import DatasetError

BC2_FOLDS: Final = (
    ("BC23277", "BC23287", "BC23508"),
    ("BC24105", "BC24220", "BC24223"),
    ("BC23803", "BC23377", "BC23895"),
    ("BC23272", "BC23288", "BC23903"),
    ("BC23270", "BC23268", "BC23567"),
    ("BC23269", "BC23810", "BC23901"),
    ("BC23209", "BC23450", "BC23506"),
    ("BC23944", "BC24044"),
)
"""Test patients of the paper's eight folds of the ST-Net data set."""
SCHEMES: Final = ("patients", "bc2", "kfold:K", "sections")
"""Choices of ``scheme``; K is a number of groups."""


@dataclass(frozen=True)
class Fold:
    """Holds the names of the training sections and test sections of a fold."""

    index: int
    """Number of the fold, from 0."""
    name: str
    """Name of the fold: its test patients joined by ``+``, or its test section."""
    train: tuple[str, ...]
    """Names of the training sections."""
    test: tuple[str, ...]
    """Names of the test sections."""
    shares_patients: bool
    """True if a test patient is also a training patient, so scores are not for new patients."""


def make_folds(
    patient_of: dict[str, str], scheme: str = "patients", seed: int = 2021
) -> tuple[Fold, ...]:
    """Return the folds of a set of sections.

    Args:
        patient_of: Patient of each section by name. Patients are matched exactly.
        scheme: ``patients`` tests one patient in each fold, ``bc2`` is the paper's fixed list,
            ``kfold:K`` divides shuffled patients into K groups, and ``sections`` tests one section
            in each fold, whatever its patient.
        seed: Seed of the shuffling.

    Raises:
        DatasetError: The scheme is unknown or does not fit the patients.
    """
    if len(patient_of) == 1:
        raise DatasetError(
            f"folds: {next(iter(patient_of))} is the only section, and a fold trains on one and "
            "tests on another; add sections"
        )
    if scheme == "sections":
        names = sorted(patient_of, key=natural_key)
        return _folds([(name, (name,)) for name in names], patient_of)
    groups = _patient_groups(patient_of, scheme, seed)
    tests = [
        ("+".join(group), tuple(name for name, patient in patient_of.items() if patient in group))
        for group in groups
    ]
    return _folds(tests, patient_of)


def inner_validation(
    fold: Fold, patient_of: dict[str, str], seed: int = 2021
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the training sections of a fold for ``validation`` selection.

    The sections of one training patient are held out, or one section if there is a single training
    patient. The seed decides which.

    Args:
        fold: The fold.
        patient_of: Patient of each section by name.
        seed: Seed of the draw.

    Returns:
        The sections to fit on, and the held-out sections.

    Raises:
        DatasetError: The fold has a single training section.
    """
    if len(fold.train) < 2:
        raise DatasetError(
            f"fold {fold.name}: a single training section cannot be split for selection; use "
            "--selection test_fold, which selects on the test fold and records it"
        )
    patients = sorted({patient_of[name] for name in fold.train}, key=natural_key)
    rng = np.random.default_rng([seed, fold.index])
    if len(patients) > 1:
        chosen = patients[int(rng.integers(len(patients)))]
        held = tuple(name for name in fold.train if patient_of[name] == chosen)
    else:
        held = (fold.train[int(rng.integers(len(fold.train)))],)
    return tuple(name for name in fold.train if name not in held), held


def patients_of(sections: Sequence[Section]) -> dict[str, str]:
    """Return the patient of each section by name.

    Raises:
        DatasetError: Two sections have the same name.
    """
    if len({section.name for section in sections}) < len(sections):
        raise DatasetError("sections: two have the same name; rename a section")
    return {section.name: section.patient for section in sections}


def _patient_groups(patient_of: dict[str, str], scheme: str, seed: int) -> list[tuple[str, ...]]:
    patients = sorted(set(patient_of.values()), key=natural_key)
    groups = re.fullmatch(r"kfold:(\d+)", scheme)
    if groups is None and scheme not in SCHEMES:
        raise DatasetError(f"folds {scheme!r}: not known; use {', '.join(SCHEMES)}")
    if len(patients) < 2:
        raise DatasetError(
            f"folds: all {len(patient_of)} sections are of one patient; use --folds sections; "
            "its scores are not valid for new patients"
        )
    if scheme == "patients":
        return [(patient,) for patient in patients]
    if scheme == "bc2":
        listed = {patient for group in BC2_FOLDS for patient in group}
        if listed != set(patients):
            differing = ", ".join(sorted(listed ^ set(patients))[:5])
            raise DatasetError(
                f"folds bc2: the patients are not those of the list ({differing} only in one of "
                "them); use kfold:8"
            )
        return list(BC2_FOLDS)
    if groups is None:
        raise DatasetError(f"folds {scheme!r}: give the number of groups, such as kfold:5")
    return _deal(patients, int(groups[1]), seed)


def _deal(patients: list[str], n_groups: int, seed: int) -> list[tuple[str, ...]]:
    if not 2 <= n_groups <= len(patients):
        raise DatasetError(f"folds kfold:{n_groups}: use 2 to {len(patients)}, one per patient")
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    parts = np.array_split(shuffled, n_groups)
    return [tuple(patients[i] for i in sorted(part.tolist())) for part in parts]


def _folds(
    tests: list[tuple[str, tuple[str, ...]]], patient_of: dict[str, str]
) -> tuple[Fold, ...]:
    folds = []
    for index, (name, test) in enumerate(tests):
        train = tuple(section for section in patient_of if section not in test)
        if not train:
            raise DatasetError(f"fold {name}: no section is left to train on; add a section")
        shared = {patient_of[s] for s in train} & {patient_of[s] for s in test}
        folds.append(Fold(index, name, train, test, bool(shared)))
    return tuple(folds)
