"""Exemplars of training spots: the nearest, and never of their own tissue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.training import bank as exemplar_index
from triplex_deploy.training.bank import training_exemplars

# spots on a line, in sections of the patients A, A and B
LINE = [np.array([[0.0], [1.0]]), np.array([[0.1], [5.0]]), np.array([[3.2], [0.6], [7.5]])]
PATIENTS = ["A", "A", "B"]


def test_a_spot_finds_the_nearest_of_other_patients_nearest_first() -> None:
    found = training_exemplars(LINE, PATIENTS, k=2)
    assert found.dtype == np.int64
    assert found.tolist() == [[5, 4], [5, 4], [5, 4], [4, 6], [3, 1], [1, 2], [3, 1]]


def test_with_slides_excluded_a_spot_finds_its_patients_other_section() -> None:
    found = training_exemplars(LINE, PATIENTS, k=2, exclude="slide")
    assert found.tolist() == [[2, 5], [5, 2], [0, 5], [4, 6], [3, 1], [1, 2], [3, 1]]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 9), min_size=2, max_size=5),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 9999),
)
def test_chunks_of_any_size_find_what_all_distances_say(
    sizes: list[int], chunk: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    features = [rng.normal(50, 1, (size, 3)).astype(np.float32) for size in sizes]
    patients = [f"P{number % 2}" for number in range(len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exemplar_index, "_CHUNK_BYTES", 8 * sum(sizes) * chunk)
        found = training_exemplars(features, patients, k=4)
    points = np.concatenate(features).astype(np.float64)
    patient_of = np.repeat(patients, sizes)
    for row, (point, patient) in enumerate(zip(points, patient_of, strict=True)):
        distances = np.linalg.norm(points - point, axis=1)
        others = np.flatnonzero(patient_of != patient)
        assert found[row].tolist() == others[distances[others].argsort()[:4]].tolist()


def test_identical_spots_of_the_same_patient_are_not_found() -> None:
    features = [np.full((rows, 8), value, np.float32) for rows, value in ((5, 0), (5, 0), (4, 1))]
    found = training_exemplars(features, ["A", "A", "B"], k=3)
    assert np.isin(found[:10], [10, 11, 12, 13]).all()
    assert (found[10:] < 10).all()


def test_one_patient_is_refused_with_the_way_out() -> None:
    with pytest.raises(DatasetError, match=r"all 2 training sections are of patient A; .*slide"):
        training_exemplars(LINE[:2], ["A", "A"], k=1)
    assert training_exemplars(LINE[:2], ["A", "A"], k=1, exclude="slide").tolist() == [
        [2],
        [2],
        [0],
        [1],
    ]


@pytest.mark.parametrize("exclude", ["patient", "slide"])
def test_one_section_is_refused_whatever_is_excluded(exclude: str) -> None:
    with pytest.raises(DatasetError, match="one training section leaves no other"):
        training_exemplars(LINE[:1], ["A"], k=1, exclude=exclude)


def test_fewer_spots_than_exemplars_are_refused() -> None:
    with pytest.raises(DatasetError, match="some spots have only 3 of another patient"):
        training_exemplars(LINE, PATIENTS, k=4)


@pytest.mark.parametrize(
    ("k", "exclude", "message"),
    [(0, "patient", "n_exemplars=0"), (2, "section", "exclude='section': not known")],
)
def test_an_option_that_is_never_right_is_refused(k: int, exclude: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_exemplars(LINE, PATIENTS, k=k, exclude=exclude)
