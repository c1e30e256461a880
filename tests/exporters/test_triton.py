"""The Triton model repository: configurations checked by Triton's schema, and the model's code."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.exporters.pbtxt import read_model_config
from tests.variants import VARIANTS, variant_checkpoint
from triplex_deploy import apeg_index
from triplex_deploy.errors import BundleError, OutputError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.inputs import tiles
from triplex_deploy.exporters.triton import graph_config, shared_memory_gb, write_repository
from triplex_deploy.models import (
    TileEncoder,
    TileEncoderWeights,
    build_model,
    read_checkpoint,
    state_of,
    write_checkpoint,
)
from triplex_deploy.runtime.model import Model, RunnableBundle, load_bundle

TYPES = {"TYPE_UINT8": 2, "TYPE_BOOL": 9, "TYPE_INT64": 7, "TYPE_FP32": 1}


@pytest.fixture(scope="module")
def repository(bundle: RunnableBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(bundle, folder)
    return folder


def test_repository_holds_a_model_per_graph_and_the_chain(
    repository: Path, bundle: RunnableBundle
) -> None:
    models = {path.name for path in repository.iterdir() if path.is_dir()}
    assert models == {*bundle.specs, "triplex"}
    for name in bundle.specs:
        files = {
            p.relative_to(repository / name).as_posix() for p in (repository / name).rglob("*")
        }
        assert files == {"1", "1/model.onnx", "config.pbtxt"}
    assert (repository / "client.py").read_text().startswith('"""Predict a slide through a Triton')
    assert "No server with a GPU" in (repository / "README.md").read_text()


def test_configurations_follow_triton_s_schema_and_the_files(
    repository: Path, bundle: RunnableBundle
) -> None:
    for name in bundle.specs:
        config = read_model_config((repository / name / "config.pbtxt").read_text())
        graph = onnx.load(repository / name / "1" / "model.onnx").graph
        assert (config["name"], config["backend"]) == (name, "onnxruntime")
        batched = config["max_batch_size"] > 0
        assert batched == (name != "global_encoder")
        assert ("dynamic_batching" in config) == batched
        for declared, tensors in ((config["input"], graph.input), (config["output"], graph.output)):
            assert [t["name"] for t in declared] == [t.name for t in tensors]
            for tensor, actual in zip(declared, tensors, strict=True):
                assert TYPES[tensor["data_type"]] == actual.type.tensor_type.elem_type
                axes = actual.type.tensor_type.shape.dim
                dims = [axis.dim_value or -1 for axis in axes]
                assert ([-1] if batched else []) + tensor["dims"] == dims


def test_chain_s_configuration_names_what_its_model_reads(
    repository: Path, bundle: RunnableBundle
) -> None:
    config = read_model_config((repository / "triplex" / "config.pbtxt").read_text())
    assert (config["backend"], config["max_batch_size"]) == ("python", 0)
    assert [(t["name"], t["dims"]) for t in config["input"]] == [
        ("tiles", [-1, 224, 224, 3]),
        ("neighbor_tile", [-1, 25]),
        ("apeg_index", [-1, 9]),
    ]
    assert config["output"][0]["dims"] == [-1, bundle.config.n_genes]


def test_triton_s_own_schema_reads_the_configurations(repository: Path) -> None:
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed: checked by our table of its schema alone")
    text_format = pytest.importorskip("google.protobuf.text_format")
    path = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    schema = load_module("model_config_pb2", path)
    for config in repository.glob("*/config.pbtxt"):
        message = text_format.Parse(config.read_text(), schema.ModelConfig())
        assert message.name == config.parent.name


def test_checker_notices_what_is_no_configuration() -> None:
    good = 'name: "a" backend: "python" max_batch_size: 0 input [ ] output [ ]'
    assert read_model_config(good)["name"] == "a"
    for bad, message in (
        (good.replace("backend", "backnd"), "unknown field backnd"),
        (good + ' name: "b"', "name is given twice"),
        (good.replace('"a"', "a"), "a string expected"),
        (good.replace(": 0", ": many"), "invalid literal"),
        (good.replace("input [ ]", 'input [ { name: "x" data_type: TYPE_U8 } ]'), "is no TYPE"),
        (good.replace("output [ ]", ""), "no output"),
    ):
        with pytest.raises(ValueError, match=message):
            read_model_config(bad)


def test_plans_take_the_place_of_onnx(bundle: RunnableBundle, tmp_path: Path) -> None:
    plans = tmp_path / "plans"
    plans.mkdir()
    with pytest.raises(BundleError, match=r"tile_encoder.plan: missing; run .*tensorrt"):
        write_repository(bundle, tmp_path / "a", plans)
    for name in bundle.specs:
        (plans / f"{name}.plan").write_bytes(name.encode())
    write_repository(bundle, tmp_path / "b", plans)
    assert (tmp_path / "b/fusion_head/1/model.plan").read_bytes() == b"fusion_head"
    config = read_model_config((tmp_path / "b/fusion_head/config.pbtxt").read_text())
    assert config["backend"] == "tensorrt"


def test_existing_folder_is_kept(bundle: RunnableBundle, repository: Path) -> None:
    with pytest.raises(OutputError, match=r"exists already"):
        write_repository(bundle, repository)


def test_graph_over_spots_is_not_batched(bundle: RunnableBundle) -> None:
    config = read_model_config(graph_config(bundle.specs["global_encoder"], "onnxruntime"))
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [-1, 512]


def load_module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Backend:
    """``pb_utils`` as Triton's Python backend has it, the graphs answered by ``model``."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asked: list[tuple[str, int]] = []
        self.broken = ""
        backend = self

        class TritonModelException(Exception):  # noqa: N818 - Triton's own name
            pass

        class TritonError:
            def __init__(self, message: str) -> None:
                self._message = message

            def message(self) -> str:
                return self._message

        class Tensor:
            def __init__(self, name: str, array: np.ndarray) -> None:
                assert array.flags.c_contiguous
                self._name, self._array = name, array

            def name(self) -> str:
                return self._name

            def as_numpy(self) -> np.ndarray:
                return self._array

            def to_dlpack(self) -> np.ndarray:
                return self._array

            @staticmethod
            def from_dlpack(name: str, array: np.ndarray) -> "Tensor":
                return Tensor(name, array)

        class InferenceResponse:
            def __init__(self, output_tensors: list[Tensor], error: Any = None) -> None:
                self._tensors, self._error = output_tensors, error

            def output_tensors(self) -> list[Tensor]:
                return self._tensors

            def has_error(self) -> bool:
                return self._error is not None

            def error(self) -> Any:
                return self._error

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: list[str],
                inputs: list[Tensor],
                preferred_memory: Any,
            ) -> None:
                assert preferred_memory == ("cpu", 0)
                self.model_name, self.names, self.inputs = (
                    model_name,
                    requested_output_names,
                    {tensor.name(): tensor.as_numpy() for tensor in inputs},
                )

            def exec(self) -> InferenceResponse:
                backend.asked.append((self.model_name, len(next(iter(self.inputs.values())))))
                if self.model_name == backend.broken:
                    return InferenceResponse([], TritonError("CUDA failure 700"))
                outputs = backend.model.run(self.model_name, self.inputs)
                return InferenceResponse([Tensor(name, outputs[name]) for name in self.names])

        self.module = ModuleType("triton_python_backend_utils")
        vars(self.module).update(
            TritonModelException=TritonModelException,
            TritonError=TritonError,
            Tensor=Tensor,
            InferenceRequest=InferenceRequest,
            InferenceResponse=InferenceResponse,
            TRITONSERVER_MEMORY_CPU="cpu",
            PreferredMemory=lambda kind, index: (kind, index),
            get_input_tensor_by_name=lambda request, name: request.tensors[name],
            get_output_tensor_by_name=lambda response, name: next(
                tensor for tensor in response.output_tensors() if tensor.name() == name
            ),
        )

    def request(self, **arrays: np.ndarray) -> Any:
        tensors = {name: self.module.Tensor(name, array) for name, array in arrays.items()}
        return SimpleNamespace(tensors=tensors)


@pytest.fixture
def backend(model: Model, monkeypatch: pytest.MonkeyPatch) -> Backend:
    stand_in = Backend(model)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in.module)
    return stand_in


@pytest.fixture
def chain(repository: Path, backend: Backend) -> Any:
    return open_chain(repository)


def open_chain(repository: Path) -> Any:
    """Return the repository's ``triplex``, initialized as Triton does, in batches of four."""
    module = load_module("triplex_model", repository / "triplex" / "1" / "model.py")
    served = module.TritonPythonModel()
    served.initialize({"model_repository": str(repository / "triplex"), "model_version": "1"})
    assert served.batch == 64
    served.batch = 4
    return served


def slide() -> dict[str, np.ndarray]:
    """Return six tiles of a row of spots, each with its neighbors to the left and right."""
    around = np.full((6, 25), -1, np.int64)
    for spot in range(6):
        for column, tile in zip(range(10, 15), range(spot - 2, spot + 3), strict=True):
            around[spot, column] = tile if 0 <= tile < 6 else -1
    grid_rc = np.stack([np.zeros(6, np.int64), np.arange(6)], axis=1)
    return {
        "tiles": tiles((6, 224, 224, 3), np.random.default_rng(3)),
        "neighbor_tile": around,
        "apeg_index": apeg_index(grid_rc, 3),
    }


def expected(model: Model, given: dict[str, np.ndarray]) -> np.ndarray:
    """Return the expression by the model's own graphs; a masked neighbor is a mean-color tile."""
    known = {**given, "mask": given["neighbor_tile"] >= 0}
    masked = np.empty((1, 224, 224, 3), np.uint8)
    masked[:] = (124, 116, 104)
    features, off_slide = (
        model.run("tile_encoder", {"tiles": images})["features"]
        for images in (given["tiles"], masked)
    )
    around = np.vstack([features, off_slide])[given["neighbor_tile"]]
    for name, spec in model.bundle.specs.items():
        known["features"] = around if name == "neighbor_encoder" else features
        known |= model.run(name, {tensor.name: known[tensor.name] for tensor in spec.inputs})
    return known["expression"]


def predict(chain: Any, backend: Backend, given: dict[str, np.ndarray]) -> np.ndarray:
    (response,) = chain.execute([backend.request(**given)])
    assert not response.has_error()
    (tensor,) = response.output_tensors()
    assert tensor.name() == "expression"
    found: np.ndarray = tensor.as_numpy()
    return found


def test_chain_predicts_what_the_bundle_does(chain: Any, backend: Backend, model: Model) -> None:
    given = slide()
    np.testing.assert_allclose(
        predict(chain, backend, given), expected(model, given), rtol=0, atol=1e-4
    )


def test_spots_at_the_border_of_a_model_that_averages_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most neighbors of the slide are masked, and NEM takes the mean of all 25 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = TileEncoder("resnet18").eval()
    weights = TileEncoderWeights("random", "resnet18", state_of(encoder.backbone))
    write_checkpoint(variant_checkpoint(VARIANTS["nem"], weights), tmp_path / "nem.ckpt")
    export_bundle(tmp_path / "nem.ckpt", tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    write_repository(bundle, tmp_path / "repository")
    with bundle.open(device="cpu") as model:
        backend = Backend(model)
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend.module)
        given = slide()
        found = predict(open_chain(tmp_path / "repository"), backend, given)
        np.testing.assert_allclose(found, expected(model, given), rtol=0, atol=1e-5)


def test_ensemble_returns_mean_and_spread(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parity: None
) -> None:
    first = read_checkpoint(tiny_checkpoint)
    members = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for seed, path in enumerate(members):
        write_checkpoint(replace(first, state_dict=state_of(build_model(first.config, seed))), path)
    export_bundle(members, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    write_repository(bundle, tmp_path / "repository")
    config = read_model_config((tmp_path / "repository/triplex/config.pbtxt").read_text())
    assert [(t["name"], t["dims"]) for t in config["output"]] == [
        ("expression", [-1, len(first.genes)]),
        ("std", [-1, len(first.genes)]),
    ]
    with bundle.open(device="cpu") as model:
        backend = Backend(model)
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend.module)
        given = slide()
        (response,) = open_chain(tmp_path / "repository").execute([backend.request(**given)])
        found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        each = expected(model, given).reshape(6, 2, -1)
    np.testing.assert_allclose(found["expression"], each.mean(1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["std"], each.std(1, ddof=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("numpy", "release", "refused"),
    [
        ("2.3.1", "24.11", True),
        ("2.3.1", "24.12", False),
        ("1.26.4", "24.05", False),
        ("2.3.1", "", False),
    ],
)
def test_server_that_spoils_tensors_of_numpy_2_is_refused(
    numpy: str,
    release: str,
    refused: bool,
    repository: Path,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(np, "__version__", numpy)
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", release)
    if not refused:
        open_chain(repository)
        return
    with pytest.raises(backend.module.TritonModelException, match=r"Triton 24.11 .* NumPy 2.3.1"):
        open_chain(repository)


def test_server_that_returns_other_numbers_is_refused(
    repository: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container may not say its release; then its tensors are compared."""
    monkeypatch.setattr(backend.module.Tensor, "as_numpy", lambda tensor: tensor._array * 0)
    monkeypatch.delenv("NVIDIA_TRITON_SERVER_VERSION", raising=False)
    with pytest.raises(backend.module.TritonModelException, match="does not work with NumPy"):
        open_chain(repository)


def test_shared_memory_is_for_two_slides_of_the_largest_message(
    repository: Path, bundle: RunnableBundle
) -> None:
    wanted = re.search(r"--shm-size (\d+)g ", (repository / "README.md").read_text())
    assert wanted is not None
    tiles_at_2_gib = 9_400
    needed = 2 * (2**31 / 150_528) / tiles_at_2_gib * 2
    assert needed < int(wanted[1]) < 1.25 * needed
    assert int(wanted[1]) == shared_memory_gb(bundle)


def test_global_encoder_runs_once_and_the_rest_in_batches(chain: Any, backend: Backend) -> None:
    chain.execute([backend.request(**slide())])
    first = list(backend.asked)
    chain.execute([backend.request(**slide())])
    assert backend.asked[len(first) :] == [call for call in first if call != ("tile_encoder", 1)]
    assert first == [
        ("tile_encoder", 4),
        ("tile_encoder", 2),
        ("target_encoder", 4),
        ("target_encoder", 2),
        ("global_encoder", 6),
        ("tile_encoder", 1),  # the feature of a masked neighbor
        ("neighbor_encoder", 4),
        ("neighbor_encoder", 2),
        ("fusion_head", 4),
        ("fusion_head", 2),
    ]


def test_failing_graph_fails_its_request_alone(chain: Any, backend: Backend) -> None:
    backend.broken = "global_encoder"
    (failed,) = chain.execute([backend.request(**slide())])
    assert failed.error().message() == "global_encoder: CUDA failure 700"


@pytest.mark.parametrize(
    ("name", "where", "value", "message"),
    [
        ("neighbor_tile", (0, 3), 6, "neighbor_tile must be -1 to 5"),
        ("neighbor_tile", (0, 12), -1, "its center at least 0"),
        ("apeg_index", (2, 1), 6, "apeg_index must be -1 to 5"),
    ],
)
def test_index_that_points_nowhere_is_refused(
    name: str, where: tuple[int, int], value: int, message: str, chain: Any, backend: Backend
) -> None:
    given = slide()
    given[name][where] = value
    wrong, right = chain.execute([backend.request(**given), backend.request(**slide())])
    assert message in wrong.error().message()
    assert not right.has_error()
    assert ("global_encoder", 6) in backend.asked


def test_bundle_facts_travel_with_the_chain(repository: Path, bundle: RunnableBundle) -> None:
    facts = json.loads((repository / "triplex" / "1" / "bundle.json").read_text())
    assert facts["bundle_id"] == bundle.id
    assert facts["genes"] == list(bundle.manifest.genes)
    assert list(facts["graphs"]) == list(bundle.specs)
