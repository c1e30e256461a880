"""Values are written as JSON that every reader accepts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import ContractError
from triplex_deploy.files.strict_json import to_strict_json


def test_values_of_numpy_and_paths_become_plain() -> None:
    values = {"count": np.int64(3), "scale": np.float32(0.5), "xy": np.arange(2), "at": Path("a/b")}
    written = json.loads(to_strict_json(values))
    assert written == {"count": 3, "scale": 0.5, "xy": [0, 1], "at": "a/b"}


def test_text_is_not_escaped() -> None:
    assert to_strict_json({"unit": "µm"}) == '{"unit": "µm"}'


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, object()])
def test_value_without_a_json_form_is_refused(value: object) -> None:
    with pytest.raises(ContractError, match=r"run metadata: .*; use text, finite numbers"):
        to_strict_json({"value": value})
