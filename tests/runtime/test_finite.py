"""NaN and infinity are named with graph, precision and spots, also in memory of a GPU."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from triplex_deploy.contract.graphs import GraphSpec, tile_encoder_graph
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.finite import require_finite


class OnDevice(DeviceArray):
    """An array that only ``numpy`` can read."""

    def __init__(self, values: NDArray[Any]) -> None:
        super().__init__(values.shape, values.dtype, 0)
        self._values = values

    def numpy(self) -> NDArray[Any]:
        return self._values.copy()

    def _view(self, shape: tuple[int, ...], pointer: int) -> DeviceArray:
        raise NotImplementedError


@pytest.fixture
def spec() -> GraphSpec:
    return tile_encoder_graph(3)


def _values(*wrong: tuple[int, int, float]) -> NDArray[np.float32]:
    values = np.ones((4, 3), np.float32)
    for row, column, value in wrong:
        values[row, column] = value
    return values


@pytest.mark.parametrize("place", ["cpu", "device"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_is_an_error_wherever_the_array_is(spec: GraphSpec, place: str, value: float) -> None:
    values = _values((2, 0, value), (2, 1, value), (3, 0, value))
    output = values if place == "cpu" else OnDevice(values)
    with pytest.raises(
        BackendError,
        match="tile_encoder: its output features has 3 values that are NaN or infinite, in fp16 "
        "on cuda:0, for 2 of 4 tiles of a call, the first is tile 2, counted from 0; check",
    ):
        require_finite(spec, {"features": output}, "fp16 on cuda:0")


@pytest.mark.parametrize("rows", [slice(128, 132), np.array([5, 130, 128, 7])])
def test_the_first_is_named_by_its_number_in_the_slide(
    spec: GraphSpec, rows: slice | NDArray[np.int64]
) -> None:
    first = 0 if isinstance(rows, slice) else 2
    with pytest.raises(BackendError, match=r"the first is tile 128,"):
        require_finite(spec, {"features": _values((first, 1, np.nan))}, "fp32 on cpu", rows)


def test_numbers_pass(spec: GraphSpec) -> None:
    require_finite(spec, {"features": OnDevice(_values())}, "fp32 on cpu")


def test_triton_s_chain_refuses_nan_of_each_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils")
    )
    path = Path(__file__).parents[2] / "exporters" / "triton_templates" / "model.py"
    spec = importlib.util.spec_from_file_location("triton_chain", path)
    assert spec is not None
    assert spec.loader is not None
    chain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chain)
    chain.require_finite("fusion_head", "expression", _values())
    with pytest.raises(ValueError, match="fusion_head: its output expression has 2 values"):
        chain.require_finite("fusion_head", "expression", _values((0, 0, np.nan), (1, 1, np.inf)))
