"""NaN or infinity of any graph is an error, not a result."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy.errors import BackendError
from triplex_deploy.pipeline.context import PredictionContext
from triplex_deploy.progress import Silent

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
