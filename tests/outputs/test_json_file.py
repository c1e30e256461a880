import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import ContractError
from triplex_deploy.files.strict_json import to_strict_json as run_to_json
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.json_file import write_json


def test_the_sidecar_is_the_run_as_json(prediction: Prediction, tmp_path: Path) -> None:
    write_json(prediction, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == prediction.run
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_numpy_values_and_paths_become_plain() -> None:
    run = {"n": np.int64(3), "rate": np.float32(0.5), "size": np.array([1, 2]), "at": Path("a/b")}
    assert json.loads(run_to_json(run)) == {"n": 3, "rate": 0.5, "size": [1, 2], "at": "a/b"}


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_facts_without_a_json_form_are_refused(
    prediction: Prediction, tmp_path: Path, value: object
) -> None:
    with pytest.raises(ContractError, match="run metadata: "):
        write_json(replace(prediction, run={"value": value}), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_an_absent_folder_is_made(prediction: Prediction, tmp_path: Path) -> None:
    write_json(prediction, tmp_path / "absent" / "a.json")
    assert json.loads((tmp_path / "absent" / "a.json").read_text())
