"""NaN or infinity of any graph is an error, not a result."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy.errors import BackendError
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.pipeline.row_store import RowStore
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.device_array import DeviceArray

GRAPHS = ["tile_encoder", "target_encoder", "neighbor_encoder", "global_encoder", "fusion_head"]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_what_is_no_number_names_its_graph(graph: str, value: float) -> None:
    model = fake_model(fake_config())
    spec = model.bundle.specs[graph]
    name = spec.outputs[0].name
    session = SimpleNamespace(
        run=lambda inputs: {name: np.array([1.0, value], np.float32)}, runs_in_caller=True
    )
    context = PredictionContext(
        model=model,
        progress=Silent(),
        sessions=cast(Any, {graph: session}),
        setting=cast(Any, SimpleNamespace(workers=1)),
    )
    inputs: Any = {tensor.name: np.zeros(1, np.float32) for tensor in spec.inputs}
    if value == 1.0:
        assert context.graph(spec, inputs)[name].tolist() == [1, 1]
        return
    with pytest.raises(BackendError, match=f"{graph}: its output {name} has 1 values that are NaN"):
        context.graph(spec, inputs)


def test_what_stays_on_a_gpu_is_looked_at_too() -> None:
    """A later graph may turn NaN into a number."""

    class OnDevice(DeviceArray):
        def numpy(self) -> np.ndarray:
            return np.array([[1.0], [np.nan]], np.float32)

        def _view(self, shape: tuple[int, ...], pointer: int) -> DeviceArray:
            raise AssertionError

    found = OnDevice((2, 1), np.dtype(np.float32), 0)
    model = fake_model(fake_config())
    spec = model.bundle.specs["neighbor_encoder"]
    session = SimpleNamespace(
        run_kept=lambda inputs: {spec.outputs[0].name: found}, runs_in_caller=True
    )
    context = PredictionContext(
        model=model,
        progress=Silent(),
        sessions=cast(Any, {spec.name: session}),
        setting=cast(Any, SimpleNamespace(workers=1)),
    )
    inputs: Any = {tensor.name: np.zeros(2, np.float32) for tensor in spec.inputs}
    with pytest.raises(BackendError, match=r"for 1 of 2 spots of a call, the first is spot 65,"):
        context.graph_kept(spec, inputs, slice(64, 66))


def test_features_beyond_float16_are_refused_where_half_of_the_memory_was_asked_for() -> None:
    with RowStore((2, 3), 1e9, half=True) as store:
        store.put(np.array([0]), np.full((1, 3), 60_000, np.float32))
        with pytest.raises(BackendError, match=r"half_features: a feature of 7e\+04"):
            store.put(np.array([1]), np.full((1, 3), -70_000, np.float32))
