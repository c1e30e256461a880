"""Graphs for TensorRT: content of the files, accuracy, and building of engines."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.exporters.rtx import BUILD_FOR, tensorrt_rtx
from triplex_deploy.bundle import GraphEntry
from triplex_deploy.errors import BackendError, ConfigError
from triplex_deploy.exporters import tensorrt as tensorrt_module
from triplex_deploy.exporters.inputs import graph_inputs, tiles
from triplex_deploy.exporters.options import TensorrtOptions
from triplex_deploy.exporters.precision import convert_precision
from triplex_deploy.exporters.tensorrt import fit_profiles, write_tensorrt_graphs
from triplex_deploy.exporters.tensorrt_parity import emulated_sessions, usual_sizes
from triplex_deploy.runtime.gates import GATES, compare_graph
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.tensorrt.build import build_plan

# TensorRT-RTX has the timing cache's functions and warns that they do nothing there
pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTIZED = ("int8", "fp8")
Written = dict[str, tuple[Path, tuple[GraphEntry, ...]]]


@pytest.fixture(scope="module")
def written(bundle: RunnableBundle, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return the folders of the graphs for TensorRT, by precision."""
    calibration = tiles((16, 224, 224, 3), np.random.default_rng(1))
    exact = {name: bundle.path / f"{name}.onnx" for name in bundle.specs}
    found = {}
    for precision in PRECISIONS:
        folder = tmp_path_factory.mktemp(precision)
        found[precision] = (
            folder,
            write_tensorrt_graphs(folder, exact, bundle.config, precision, calibration),
        )
    return found


def test_files_hold_standard_operators_alone(written: Written) -> None:
    for folder, entries in written.values():
        for entry in entries:
            model = onnx.load(folder / entry.file)
            onnx.checker.check_model(model, full_check=True)
            assert {node.domain for node in model.graph.node} == {""}
            assert entry.target == "tensorrt"
            assert entry.opset == (22 if entry.precision == "bf16" else 20)


def test_precision_is_in_the_file(written: Written) -> None:
    kinds = {
        "fp32": onnx.TensorProto.FLOAT,
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
        "int8": onnx.TensorProto.INT8,
        "fp8": onnx.TensorProto.FLOAT8E4M3FN,
    }
    for folder, entries in written.values():
        for entry in entries:
            model = onnx.load(folder / entry.file)
            weights = [w for w in model.graph.initializer if len(w.dims) > 1 and w.raw_data]
            if entry.precision in QUANTIZED:
                steps = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
                zeros = {w.name: w.data_type for w in model.graph.initializer}
                assert len(steps) > 20
                assert {zeros[node.input[2]] for node in steps} == {kinds[entry.precision]}
                continue
            floats = {w.data_type for w in weights if w.data_type != onnx.TensorProto.INT64}
            pixels = {onnx.TensorProto.FLOAT} if entry.inputs[0].name == "tiles" else set()
            assert floats == {kinds[entry.precision]} | pixels


def test_inputs_and_outputs_keep_their_types(written: Written) -> None:
    names = {1: "float32", 2: "uint8", 7: "int64", 9: "bool"}
    for folder, entries in written.values():
        for entry in entries:
            graph = onnx.load(folder / entry.file).graph
            found = {t.name: names[t.type.tensor_type.elem_type] for t in graph.input}
            found |= {t.name: names[t.type.tensor_type.elem_type] for t in graph.output}
            assert found == {t.name: t.dtype for t in [*entry.inputs, *entry.outputs]}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_pass_the_gate_of_their_precision(
    precision: str, written: Written, bundle: RunnableBundle, model: Model
) -> None:
    folder, entries = written[precision]
    if precision in QUANTIZED:
        expected = [precision, precision, "fp16", "fp16", "fp16"]
        assert [entry.precision for entry in entries] == expected
    with emulated_sessions(folder, entries, bundle.specs) as sessions:
        for entry in entries:
            inputs = graph_inputs(bundle.specs[entry.name], 3)
            (found,) = sessions[entry.name].run(inputs).values()
            (wanted,) = model.run(entry.name, inputs).values()
            (result,) = compare_graph(entry.name, [(found, wanted)], GATES[entry.precision])
            assert result.passed, result
            if entry.precision in ("fp16", "bf16"):
                assert result.relative > 1e-6, "nothing was rounded"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_is_built(precision: str, written: Written, bundle: RunnableBundle) -> None:
    """TensorRT-RTX builds them: it has the parser and builder of TensorRT, and needs no GPU."""
    trt = tensorrt_rtx()
    folder, entries = written[precision]
    settings = TensorrtOptions(precision).settings(bundle.specs)
    for entry in entries:
        content = (folder / entry.file).read_bytes()
        steps: list[tuple[str, int, int]] = []
        plan = build_plan(
            trt,
            content,
            bundle.specs[entry.name],
            settings.profile(entry.name),
            settings,
            on_phase=lambda *step, steps=steps: steps.append(step),
            compute_capability=BUILD_FOR,
        )
        share = len(plan.engine) / _stored_bytes(content)  # a quantized graph's file stores fp32
        bounds = (0.25, 0.4) if entry.precision in QUANTIZED else (0.9, 1.5)
        assert bounds[0] < share < bounds[1], entry.name
        assert steps


def test_half_precision_halves_the_engine(written: Written, bundle: RunnableBundle) -> None:
    trt = tensorrt_rtx()
    sizes = {}
    for precision in ("fp32", "fp16"):
        folder, _ = written[precision]
        settings = TensorrtOptions(precision).settings(bundle.specs)
        name = "fusion_head"
        plan = build_plan(
            trt,
            (folder / "tensorrt" / f"{name}.onnx").read_bytes(),
            bundle.specs[name],
            settings.profile(name),
            settings,
            compute_capability=BUILD_FOR,
        )
        sizes[precision] = len(plan.engine)
    assert 0.4 < sizes["fp16"] / sizes["fp32"] < 0.6


def test_graph_that_tensorrt_does_not_read_is_named(bundle: RunnableBundle) -> None:
    """The parser does not have the operator of a scatter that adds."""
    trt = tensorrt_rtx()
    graph = onnx.parser.parse_graph(
        """scatter (float[batch, 4] features, int64[batch, 4] index) => (float[batch, 4] sums)
        { sums = ScatterElements <axis = 0, reduction = "add"> (features, index, features) }"""
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    settings = TensorrtOptions("fp32").settings(bundle.specs)
    spec = bundle.specs["global_encoder"]
    with pytest.raises(BackendError, match=r"global_encoder: TensorRT cannot read .*Scatter"):
        build_plan(
            trt,
            model.SerializeToString(),
            spec,
            settings.profile(spec.name),
            settings,
            compute_capability=BUILD_FOR,
        )


def test_fp8_is_refused_by_a_gpu_that_has_none(written: Written, bundle: RunnableBundle) -> None:
    trt = tensorrt_rtx()
    folder, _ = written["fp8"]
    settings = TensorrtOptions("fp8").settings(bundle.specs)
    with pytest.raises(BackendError, match=r"tile_encoder: TensorRT built no engine .*fp8"):
        build_plan(
            trt,
            (folder / "tensorrt/tile_encoder.onnx").read_bytes(),
            bundle.specs["tile_encoder"],
            settings.profile("tile_encoder"),
            settings,
            compute_capability="SM86",
        )


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantizing_without_calibration_is_refused(
    precision: str, bundle: RunnableBundle, tmp_path: Path
) -> None:
    exact = {name: bundle.path / f"{name}.onnx" for name in bundle.specs}
    with pytest.raises(ConfigError, match=f"{precision} needs slides"):
        write_tensorrt_graphs(tmp_path, exact, bundle.config, precision)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp32, tf32, fp16, bf16, int8, fp8"):
        TensorrtOptions("fp64")


@pytest.mark.usefixtures("small_parity")
def test_export_holds_graphs_settings_and_proof(checkpoint_path: Path, tmp_path: Path) -> None:
    """The bundle also holds fp32 graphs for ONNX Runtime, and opens on the CPU."""
    import json

    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.exporters.options import ExportOptions
    from triplex_deploy.runtime.model import load_bundle
    from triplex_deploy.runtime.tensorrt.build import read_settings

    engines = TensorrtOptions("fp16", profiles=("batch=1:8:32",))
    options = ExportOptions(tensorrt=engines, triton=True)
    export_bundle(checkpoint_path, tmp_path / "bundle", options)
    exported = load_bundle(tmp_path / "bundle")
    served = {path.parent.name for path in (exported.path / "triton").glob("*/config.pbtxt")}
    assert served == {*exported.specs, "triplex"}
    assert exported.entry("fusion_head", "tensorrt").precision == "fp16"
    assert exported.entry("fusion_head", "onnxruntime").precision == "fp32"
    settings = read_settings(exported)
    assert settings.precision == "fp16"
    assert settings.profile("tile_encoder").lengths == (1, 8, 32)
    assert settings.profile("global_encoder").lengths == (1, 4096, 20_000)
    report = json.loads((exported.path / "tensorrt_parity.json").read_text())
    assert (report["passed"], report["precision"]) == (True, "fp16")
    compared = {(graph["graph"], graph["size"]) for graph in report["graphs"]}
    assert {("global_encoder", size) for size in (1, 2, 5)} <= compared, "5 is the usual size here"
    with exported.open(device="cpu") as opened:
        assert opened.backend == "onnxruntime"


@pytest.mark.usefixtures("small_parity")
def test_graph_beyond_its_gate_fails_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.errors import ParityError
    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.exporters.options import ExportOptions

    def careless(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
        result = convert_precision(model, precision)
        for weight in result.graph.initializer:
            if weight.name.endswith("head.bias_low"):
                weight.raw_data = np.full(weight.dims, 50, np.float16).tobytes()
        return result

    monkeypatch.setattr(tensorrt_module, "convert_precision", careless)
    options = ExportOptions(tensorrt=TensorrtOptions("fp16"))
    with pytest.raises(ParityError, match=r"graphs for tensorrt miss the fp16 gate .*fusion_head"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


def test_the_usual_size_of_a_slide_is_the_best_of_its_profile(bundle: RunnableBundle) -> None:
    options = TensorrtOptions("fp16", ("spots=1:300:900",))
    assert usual_sizes(options, bundle.specs) == {"global_encoder": 300}


def _stored_bytes(content: bytes) -> int:
    """Return the bytes of the weights, below which an engine cannot hold them."""
    model: Any = onnx.load_from_string(content)
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_full_size_graphs_are_built(precision: str, tmp_path: Path) -> None:
    """The paper's model has other depths, heads and widths than the demo's."""
    from triplex_deploy.contract import ModelConfig, graph_specs
    from triplex_deploy.exporters.to_onnx import write_onnx
    from triplex_deploy.exporters.wrappers import graph_modules
    from triplex_deploy.models import TileEncoder, build_model

    trt = tensorrt_rtx()
    config = ModelConfig()
    specs = graph_specs(config)
    modules = graph_modules(build_model(config, seed=1).eval(), TileEncoder().eval())
    for name, module in modules.items():
        write_onnx(module, specs[name], "onnxruntime", {}, tmp_path / f"{name}.onnx")
    exact = {name: tmp_path / f"{name}.onnx" for name in specs}
    entries = write_tensorrt_graphs(tmp_path, exact, config, precision)
    settings = TensorrtOptions(precision).settings(specs)
    for entry in entries:
        content = (tmp_path / entry.file).read_bytes()
        profile = settings.profile(entry.name)
        spec = specs[entry.name]
        plan = build_plan(trt, content, spec, profile, settings, compute_capability=BUILD_FOR)
        assert 0.9 < len(plan.engine) / _stored_bytes(content) < 1.5, entry.name


def test_profile_is_shortened_to_the_largest_tensor_or_refused(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    """TensorRT may not fuse attention, whose scores have heads x N x N elements."""
    exact = {name: bundle.path / f"{name}.onnx" for name in bundle.specs}
    entries = write_tensorrt_graphs(tmp_path, exact, bundle.config, "fp32")
    heads = bundle.config.global_heads  # type: ignore[attr-defined]
    most = math.isqrt((2**31 - 1) // heads)

    def profile(*texts: str) -> tuple[int, int, int]:
        options = TensorrtOptions("fp32", texts)
        return fit_profiles(tmp_path, entries, bundle.specs, options).profiles["global_encoder"]

    assert profile() == (1, 4096, most), "without blocks of queries"
    assert profile(f"spots=1:500:{most}") == (1, 500, most)
    for name in ("spots", "global_encoder"):
        with pytest.raises(ConfigError, match=rf"TensorRT takes 2.1 .* spots=1:500:{most}, and"):
            profile(f"{name}=1:500:{most + 1}")


@pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        pytest.param("fp16", marks=pytest.mark.slow),
        pytest.param("bf16", marks=pytest.mark.slow),
    ],
)
def test_blocks_of_queries_fit_and_are_built(
    precision: str, bundle: RunnableBundle, tmp_path: Path
) -> None:
    """With them the global encoder takes 20,000 spots, and 40,000 if asked."""
    trt, name = tensorrt_rtx(), "global_encoder"
    exact = {graph: bundle.path / f"{graph}.onnx" for graph in bundle.specs}
    options = TensorrtOptions(precision, ("spots=1:4096:40000",))
    longest = {name: options.settings(bundle.specs).profile(name).max}
    entries = write_tensorrt_graphs(tmp_path, exact, bundle.config, precision, longest=longest)
    settings = fit_profiles(tmp_path, entries, bundle.specs, options)
    profile = settings.profile(name)
    assert profile.lengths == (1, 4096, 40_000)
    content = (tmp_path / "tensorrt" / f"{name}.onnx").read_bytes()
    plan = build_plan(
        trt, content, bundle.specs[name], profile, settings, compute_capability=BUILD_FOR
    )
    assert len(plan.engine) > 0.9 * _stored_bytes(content)
