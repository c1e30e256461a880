"""A graph over all spots that runs in blocks computes what it computes as a whole."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.variants import BASELINES
from triplex_deploy.contract import Config, ModelConfig, graph_specs
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import build_model
from triplex_deploy.runtime import openvino, openvino_blocks
from triplex_deploy.runtime.openvino_blocks import BlockwiseGraph

pytest.importorskip("openvino")

SMALL = ModelConfig(
    model="gem",
    n_genes=3,
    feature_dim=12,
    embedding_dim=8,
    global_heads=2,
    neighbor_heads=2,
    fusion_heads=2,
)
CUT = {
    "apeg": SMALL,
    "no position": replace(SMALL, position="none"),
    "no residual": replace(SMALL, apeg_residual=False),
    "his_to_gene": BASELINES["his_to_gene"],
}
SPOTS = 23
BLOCK = 5
"""Spots of a block; it does not divide ``SPOTS``."""


@pytest.fixture(scope="module")
def graph_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Path]:
    """Write the global encoder of a configuration with random weights."""

    def write(config: Config) -> Path:
        path = tmp_path_factory.mktemp("graph") / "global_encoder.onnx"
        modules = graph_modules(build_model(config, seed=0).eval(), None)
        spec = graph_specs(config)["global_encoder"]
        write_onnx(modules["global_encoder"], spec, "onnxruntime", {}, path)
        return path

    return write


def _run(path: Path, config: Config) -> NDArray[np.float32]:
    spec = graph_specs(config)["global_encoder"]
    inputs = graph_inputs(spec, SPOTS, n_positions=getattr(config, "n_positions", 1))
    with openvino.open_session(path, spec) as session:
        (output,) = session.run(inputs).values()
        return output.copy()


@pytest.mark.parametrize("name", CUT)
def test_blocks_give_what_the_whole_gives(
    name: str, graph_of: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graph_of(CUT[name])
    whole = _run(path, CUT[name])
    lengths: list[int] = []
    call = openvino_blocks._call

    def counting(
        request: Any, values: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        lengths.extend(
            array.shape[1] for array in values.values() if array.ndim == 3 and len(array) == 1
        )
        return call(request, values)

    monkeypatch.setattr(openvino_blocks, "_call", counting)
    for module in (openvino, openvino_blocks):
        monkeypatch.setattr(module, "SPOTS_PER_BLOCK", BLOCK)
    in_blocks = _run(path, CUT[name])
    np.testing.assert_allclose(in_blocks, whole, atol=1e-6 * float(np.ptp(whole)))
    assert np.ptp(whole) > 0.1
    assert {SPOTS % BLOCK, BLOCK} <= set(lengths)


def test_graph_that_mixes_rows_otherwise_is_not_cut(
    graph_of: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hist2ST's graph convolution looks up tokens that a block would not have."""
    config = BASELINES["hist2st"]
    path = graph_of(config)
    module = openvino.import_openvino()
    model = module.Core().read_model(str(path))
    assert BlockwiseGraph.cut(module, model, {}) is None
    whole = _run(path, config)
    monkeypatch.setattr(openvino, "SPOTS_PER_BLOCK", BLOCK)
    np.testing.assert_array_equal(_run(path, config), whole)


def test_closed_session_runs_no_blocks(
    graph_of: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "SPOTS_PER_BLOCK", BLOCK)
    config = CUT["no position"]
    spec = graph_specs(config)["global_encoder"]
    session = openvino.open_session(graph_of(config), spec)
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.run(graph_inputs(spec, SPOTS))
