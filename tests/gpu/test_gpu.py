"""On a machine with a GPU: engines of every precision and ONNX Runtime CUDA, within their gates.

``make test-gpu`` runs these; everywhere else they skip and say why. What they hold has not been
executed until docs/gpu-servers.md says so.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.gates import GATES, compare_end_to_end, compare_graph
from triplex_deploy.runtime.model import Model, RunnableBundle, load_bundle
from triplex_deploy.runtime.ort_load import cuda_device_count

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device_count() == 0, reason="no CUDA driver or no GPU"),
]

SIZES = {"batch": (1, 7, 64), "spots": (1, 60, 2000)}
Opened = Callable[[str, str], Model]


@pytest.fixture(scope="module")
def opened(checkpoint_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Open a backend at a precision, once; skips where the library is missing."""
    models: dict[tuple[str, str], Model] = {}
    folder = tmp_path_factory.mktemp("gpu")

    def open_once(backend: str, precision: str) -> Model:
        key = (backend, precision)
        if key not in models:
            engines = TensorrtOptions(precision, ("batch=1:16:64", "spots=1:500:4000"))
            options = (
                ExportOptions(tensorrt=engines)
                if backend == "tensorrt"
                else ExportOptions(precision)
            )
            path = folder / "-".join(key)
            if not path.exists():
                export_bundle(checkpoint_path, path, options)
            try:
                models[key] = load_bundle(path).open(device="cuda:0", backend=backend)
            except BackendError as error:
                pytest.skip(f"{backend}: {error}")
        return models[key]

    yield open_once
    for model in models.values():
        model.close()


CASES = [
    *(("onnxruntime", precision) for precision in ("fp32", "fp16")),
    *(("tensorrt", precision) for precision in ("fp32", "tf32", "fp16", "bf16")),
]


@pytest.mark.parametrize(("backend", "precision"), CASES)
def test_graphs_match_the_cpu_within_the_gate(
    backend: str, precision: str, opened: Opened, model: Model
) -> None:
    engines = opened(backend, precision)
    for name, spec in model.bundle.specs.items():
        pairs = []
        for size in SIZES[spec.batch_axis]:
            inputs = graph_inputs(spec, size)
            (found,) = engines.run(name, inputs).values()
            (wanted,) = model.run(name, inputs).values()
            pairs.append((found, wanted))
        for result in compare_graph(name, pairs, GATES[precision]):
            assert result.passed, result


@pytest.mark.parametrize(("backend", "precision"), CASES)
def test_slide_matches_the_cpu_within_the_gate(
    backend: str, precision: str, opened: Opened, model: Model, tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tif"
    synthesize_slide(slide, 2240, 2240, 0.5, seed=5)
    options = PredictOptions(all_tiles=True)
    found = predict_slide(slide, opened(backend, precision), options).expression
    wanted = predict_slide(slide, model, options).expression
    result = compare_end_to_end(found, wanted, GATES[precision])
    assert result.passed, result


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_kept_outputs_feed_the_next_graph(backend: str, opened: Opened, model: Model) -> None:
    engines = opened(backend, "fp32")
    around = graph_inputs(model.bundle.specs["neighbor_encoder"], 20)
    views: dict[str, Any] = graph_inputs(model.bundle.specs["fusion_head"], 7)
    views["neighbor_tokens"] = model.run("neighbor_encoder", around)["neighbor_tokens"][3:10]
    wanted = model.run("fusion_head", views)["expression"]
    kept = engines.session("neighbor_encoder").run_kept(around)["neighbor_tokens"]
    assert isinstance(kept, DeviceArray)
    views["neighbor_tokens"] = kept[3:10]
    found = engines.run("fusion_head", views)["expression"]
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_pieces_of_a_large_batch_keep_their_results(opened: Opened, model: Model) -> None:
    """300 tiles are five pieces of up to 64 tiles, and two of them are in progress at once."""
    session = opened("tensorrt", "fp32").session("tile_encoder")
    inputs = graph_inputs(session.spec, 300)
    found = session.run(inputs)["features"]
    wanted = model.run("tile_encoder", inputs)["features"]
    assert compare_graph("tile_encoder", [(found, wanted)], GATES["fp32"])[0].passed


def test_engines_are_found_again(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    first = opened("tensorrt", "fp16")
    folder = first.bundle.path
    assert len(list((folder / "engines").iterdir())) == 1
    caplog.clear()
    with load_bundle(folder).open(device="cuda:0", backend="tensorrt"):
        assert "building" not in caplog.text


def test_truncated_plan_is_refused(opened: Opened) -> None:
    bundle = opened("tensorrt", "tf32").bundle
    assert isinstance(bundle, RunnableBundle)
    plan = next((bundle.path / "engines").rglob("fusion_head.plan"))
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-100])
    try:
        with pytest.raises(BackendError, match="truncated or altered"):
            bundle.open(device="cuda:0", backend="tensorrt")
    finally:
        plan.write_bytes(whole)
