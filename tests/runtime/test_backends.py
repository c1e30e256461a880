"""Every backend passes the same tests: it takes the same inputs, and its outputs keep the gate.

If this machine lacks a backend, its tests are skipped, and the reason names what is missing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import read_checkpoint
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.gates import GATES, compare_graph
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.runtime.session import Arrays, Session

GRAPHS = ("tile_encoder", "target_encoder", "neighbor_encoder", "global_encoder", "fusion_head")


class TorchSession(Session):
    """Runs the PyTorch module of a graph; the backends are compared with it."""

    def __init__(self, spec: Any, module: Any) -> None:
        super().__init__(spec)
        self.module = module

    def _run(self, inputs: Any) -> Arrays:
        import torch

        with torch.inference_mode():
            output = self.module(**{name: torch.from_numpy(a) for name, a in inputs.items()})
        return {self.spec.outputs[0].name: output.numpy()}

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def torch_sessions(checkpoint_path: Any, bundle: RunnableBundle) -> dict[str, Session]:
    checkpoint = read_checkpoint(checkpoint_path)
    modules = graph_modules(checkpoint.build_model(), checkpoint.tile_encoder.build())
    return {name: TorchSession(bundle.specs[name], modules[name]) for name in GRAPHS}


@pytest.fixture(
    scope="module",
    params=[
        "torch",
        "onnxruntime-cpu",
        "openvino",
        "onnxruntime-cuda",
        "tensorrt",
        "tensorrt-stand-in",
    ],
)
def sessions(
    request: pytest.FixtureRequest, bundle: RunnableBundle, torch_sessions: dict[str, Session]
) -> Iterator[dict[str, Session]]:
    if request.param == "torch":
        yield torch_sessions
        return
    if request.param in ("onnxruntime-cpu", "openvino"):
        backend = request.param.removesuffix("-cpu")
        with bundle.open(device="cpu", backend=backend) as model:
            yield dict(model.sessions)
        return
    try:
        if request.param == "onnxruntime-cuda":
            opened = bundle.open(device="cuda:0", backend="onnxruntime")
        else:
            engines = request.getfixturevalue("shared_engine_bundle")
            if request.param == "tensorrt-stand-in":
                install_stand_in(request)
            opened = engines.open(device="cuda:0", backend="tensorrt")
    except BackendError as error:
        pytest.skip(f"{request.param}: {error}")
    with opened as model:
        yield dict(model.sessions)


def install_stand_in(request: pytest.FixtureRequest) -> None:
    from tests.gpu.stand_in import StandInGpu
    from tests.gpu.stand_in_tensorrt import StandInTensorrt
    from triplex_deploy.runtime.tensorrt import engines

    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    gpu = StandInGpu()
    cuda = gpu.cuda()
    patch.setattr(engines, "import_tensorrt", lambda: StandInTensorrt(gpu))
    patch.setattr(engines, "open_cuda", lambda index: cuda)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("graph", GRAPHS)
def test_graph_matches_torch_within_the_fp32_gate(
    graph: str, size: int, sessions: dict[str, Session], torch_sessions: dict[str, Session]
) -> None:
    inputs = graph_inputs(sessions[graph].spec, size)
    found, wanted = sessions[graph].run(inputs), torch_sessions[graph].run(inputs)
    (output,) = sessions[graph].spec.outputs
    assert found.keys() == {output.name}
    assert found[output.name].dtype == np.float32
    pair = (found[output.name], wanted[output.name])
    (result,) = compare_graph(graph, [pair], GATES["fp32"])
    assert result.passed, result


def test_masked_neighbors_cannot_change_anything(sessions: dict[str, Session]) -> None:
    session = sessions["neighbor_encoder"]
    inputs = graph_inputs(session.spec, 4)
    inputs["mask"][:, 7] = False
    before = session.run(inputs)["neighbor_tokens"]
    inputs["features"][:, 7] += 100
    after = session.run(inputs)["neighbor_tokens"]
    others = [i for i in range(25) if i != 7]
    np.testing.assert_allclose(after[:, others], before[:, others], atol=1e-5)


def test_a_batch_is_its_rows(sessions: dict[str, Session]) -> None:
    session = sessions["fusion_head"]
    inputs = graph_inputs(session.spec, 6)
    whole = session.run(inputs)["expression"]
    parts = [session.run({k: v[i : i + 2] for k, v in inputs.items()}) for i in (0, 2, 4)]
    joined = np.concatenate([part["expression"] for part in parts])
    np.testing.assert_allclose(joined, whole, atol=1e-4)


def test_kept_outputs_are_taken_as_inputs(sessions: dict[str, Session]) -> None:
    neighbors, fusion = sessions["neighbor_encoder"], sessions["fusion_head"]
    around = graph_inputs(neighbors.spec, 3)
    views = graph_inputs(fusion.spec, 3)
    kept = neighbors.run_kept(around)["neighbor_tokens"]
    plain = kept.numpy() if isinstance(kept, DeviceArray) else kept
    found = fusion.run({**views, "neighbor_tokens": kept})["expression"]
    wanted = fusion.run({**views, "neighbor_tokens": plain})["expression"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_inputs_beyond_the_contract_are_refused(sessions: dict[str, Session]) -> None:
    session = sessions["neighbor_encoder"]
    inputs = graph_inputs(session.spec, 3)
    with pytest.raises(ContractError, match=r"float64"):
        session.run({**inputs, "features": inputs["features"].astype(np.float64)})
    with pytest.raises(ContractError, match=r"it takes"):
        session.run({"features": inputs["features"]})
