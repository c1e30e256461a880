import json
from pathlib import Path

import pytest

from triplex_deploy.data import inner_validation, make_folds
from triplex_deploy.data.folds import BC2_FOLDS
from triplex_deploy.errors import DatasetError

SKIN = {f"{p}_rep{i}": p for p in ("P10", "P2", "P5", "P9") for i in (1, 2, 3)}


def test_one_patient_is_left_out_at_a_time_in_natural_order() -> None:
    folds = make_folds(SKIN)
    assert [fold.name for fold in folds] == ["P2", "P5", "P9", "P10"]
    assert folds[0].test == ("P2_rep1", "P2_rep2", "P2_rep3")
    assert len(folds[0].train) == 9
    assert not any(fold.shares_patients for fold in folds)


def test_patients_match_exactly_not_by_substring() -> None:
    folds = make_folds({"a": "P1", "b": "P10", "c": "P100"})
    assert [fold.test for fold in folds] == [("a",), ("b",), ("c",)]


def test_published_folds_are_reproduced(shared_data: Path) -> None:
    listed = json.loads((shared_data / "goldens" / "data" / "folds_v1.json").read_text())
    bc2 = listed["stnet_KFold8_shuffle_seed2021_test_patients"]
    assert [list(group) for group in BC2_FOLDS] == bc2
    folds = make_folds({f"{p}_C1": p for group in bc2 for p in group}, "bc2")
    assert [[name.removesuffix("_C1") for name in fold.test] for fold in folds] == [
        sorted(group, key=[p for g in bc2 for p in g].index) for group in bc2
    ]
    skin = make_folds(SKIN)
    assert [fold.name for fold in skin] == listed["skin_leave_one_patient"]


def test_bc2_folds_refuse_other_patients() -> None:
    with pytest.raises(DatasetError, match="bc2"):
        make_folds(SKIN, "bc2")


def test_grouped_folds_test_every_patient_once() -> None:
    patient_of = {f"s{i}": f"p{i // 2}" for i in range(14)}
    folds = make_folds(patient_of, "kfold:3")
    tested = [name for fold in folds for name in fold.test]
    assert sorted(tested) == sorted(patient_of)
    assert not any(fold.shares_patients for fold in folds)
    assert folds == make_folds(patient_of, "kfold:3")
    assert folds != make_folds(patient_of, "kfold:3", seed=1)


def test_one_patient_needs_folds_over_sections_which_say_so() -> None:
    patient_of = dict.fromkeys(["C2", "C3", "C4", "C5"], "C")
    with pytest.raises(DatasetError, match="one patient"):
        make_folds(patient_of)
    folds = make_folds(patient_of, "sections")
    assert folds[3].test == ("C5",)
    assert folds[3].train == ("C2", "C3", "C4")
    assert all(fold.shares_patients for fold in folds)


@pytest.mark.parametrize("scheme", ["patients", "sections"])
def test_a_single_section_makes_no_fold(scheme: str) -> None:
    with pytest.raises(DatasetError, match=r"C2 is the only section.*add sections"):
        make_folds({"C2": "C"}, scheme)


@pytest.mark.parametrize("scheme", ["kfold:1", "kfold:9", "slides", "kfold"])
def test_impossible_scheme_is_refused(scheme: str) -> None:
    with pytest.raises(DatasetError, match="folds"):
        make_folds(SKIN, scheme)


def test_a_misspelled_scheme_is_told_before_what_lacks_patients() -> None:
    with pytest.raises(DatasetError, match=r"folds 'section': not known"):
        make_folds({"C2": "C", "C3": "C"}, "section")


def test_validation_holds_out_a_training_patient() -> None:
    fold = make_folds(SKIN)[0]
    fit, held = inner_validation(fold, SKIN)
    assert set(fit) | set(held) == set(fold.train)
    assert len({SKIN[name] for name in held}) == 1
    assert not {SKIN[name] for name in held} & {SKIN[name] for name in fit}
    assert inner_validation(fold, SKIN) == (fit, held)


def test_validation_needs_two_training_sections() -> None:
    fold = make_folds({"a": "A", "b": "B"})[0]
    with pytest.raises(DatasetError, match="a single training section cannot be split"):
        inner_validation(fold, {"a": "A", "b": "B"})
