"""Encoders from timm as ONNX files: pixels, precision, size, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tests.exporters.rtx import BUILD_FOR, tensorrt_rtx
from tests.exporters.timm_here import require_timm
from triplex_deploy.contract import TILES
from triplex_deploy.contract.graphs import tile_encoder_graph
from triplex_deploy.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    ContractError,
    OutputError,
    ParityError,
)
from triplex_deploy.exporters import encoder_export, encoder_model
from triplex_deploy.exporters.encoder_export import (
    EncoderFile,
    ExportSettings,
    OpenEncoder,
    open_encoder,
    write_encoder,
)
from triplex_deploy.exporters.encoder_model import (
    Resize,
    build_encoder,
    design_of_network,
    import_timm,
    resize_matrix,
)
from triplex_deploy.exporters.encoder_presets import EncoderDesign
from triplex_deploy.exporters.encoder_storage import store_weights
from triplex_deploy.exporters.encoder_weights import read_weights
from triplex_deploy.exporters.inputs import tiles
from triplex_deploy.exporters.precision import convert_precision
from triplex_deploy.exporters.standard_form import to_standard
from triplex_deploy.runtime import openvino
from triplex_deploy.runtime.tile_model import DESCRIPTION, open_tile_model

SMALL = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 224}


@pytest.fixture(autouse=True)
def timm() -> Any:
    return require_timm()


def small_vit(**changes: Any) -> EncoderDesign:
    """A vision transformer of 0.6 million weights, with statistics that differ by channel."""
    design = EncoderDesign(
        name="small",
        network="vit_tiny_patch16_224",
        arguments=SMALL,
        pooling="cls",
        mean=(0.7, 0.6, 0.5),
        std=(0.2, 0.25, 0.3),
    )
    return replace(design, **changes)


def saved(design: EncoderDesign, path: Path) -> Path:
    """Random weights of a design, under timm's names."""
    torch.manual_seed(0)
    encoder = build_encoder(design)
    state = {key: torch.randn_like(value) * 0.1 for key, value in _state(encoder).items()}
    torch.save(state, path)
    return path


def _state(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key.removeprefix("network."): value for key, value in encoder.state_dict().items()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenEncoder:
    require_timm()
    design = small_vit()
    return open_encoder(design, saved(design, tmp_path_factory.mktemp("small") / "weights.pth"))


@pytest.fixture(scope="module")
def whole(opened: OpenEncoder, tmp_path_factory: pytest.TempPathFactory) -> EncoderFile:
    """The encoder in fp32; leave the file as it is."""
    return write_encoder(opened, tmp_path_factory.mktemp("whole") / "out" / "small.onnx")


def some_tiles(count: int) -> np.ndarray:
    return tiles((count, 224, 224, 3), np.random.default_rng(1))


def test_file_is_a_tile_encoder_that_says_what_it_is(
    opened: OpenEncoder, whole: EncoderFile
) -> None:
    model = open_tile_model(whole.path)
    assert (model.input_layout, model.feature_dim, model.fixed_batch) == ("uint8_nhwc", 128, None)
    said = model.description
    assert said is not None
    assert (said.name, said.mean, said.std, said.mpp) == (
        "small",
        (0.7, 0.6, 0.5),
        (0.2, 0.25, 0.3),
        None,
    )
    given = some_tiles(3)
    np.testing.assert_allclose(model.encode(given), opened.features(given), atol=1e-5)


def test_cost_is_that_of_the_network(opened: OpenEncoder) -> None:
    """Products of the patch embedding, and of each block: projections, attention and MLP."""
    dim, tokens = 128, 197
    block = tokens * dim * dim * (3 + 1 + 4 + 4) + 2 * tokens * tokens * dim
    patches = 196 * 16 * 16 * 3 * dim
    assert opened.cost.gflop == pytest.approx(2 * (2 * block + patches) / 1e9, rel=1e-6)
    assert opened.cost.parameters == sum(p.numel() for p in opened.encoder.parameters())
    assert opened.cost.tiles_per_s > 0


@pytest.mark.parametrize(
    ("network", "pooling"),
    [
        pytest.param("test_resnet", "own", marks=pytest.mark.slow),
        pytest.param("test_convnext", "own", marks=pytest.mark.slow),
        ("test_vit", "mean"),
    ],
)
def test_any_network_of_timm_is_exported(network: str, pooling: Any, tmp_path: Path) -> None:
    """They take 160 px and have a classifier, which is left out."""
    design = design_of_network(network, pooling=pooling)
    assert design.input_px == 160
    timm = import_timm()
    torch.manual_seed(0)
    whole = timm.create_model(network, pretrained=False, num_classes=10).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    opened = open_encoder(design, tmp_path / "weights.pth")
    written = write_encoder(opened, tmp_path / "encoder.onnx")
    assert opened.feature_dim == whole.num_features
    assert max(result.relative for result in written.parity) < 1e-5


@pytest.mark.parametrize(
    ("wanted", "kernel"), [(448, "bicubic"), (160, "bicubic"), (96, "bilinear")]
)
def test_tiles_are_resized_as_pillow_does(wanted: int, kernel: Any) -> None:
    given = some_tiles(1)
    images = torch.from_numpy(given.transpose(0, 3, 1, 2).astype(np.float32))
    found = Resize(224, wanted, kernel)(images)[0].permute(1, 2, 0).numpy()
    resample = Image.Resampling.BICUBIC if kernel == "bicubic" else Image.Resampling.BILINEAR
    expected = np.asarray(Image.fromarray(given[0]).resize((wanted, wanted), resample))
    # Pillow rounds after each of two passes, and the second spreads the first's half by up to 1.25
    assert np.abs(found - expected).max() < 1.125
    assert np.abs(found - expected).mean() < 0.33


def test_size_of_a_tile_is_left_as_it_is() -> None:
    np.testing.assert_array_equal(resize_matrix(224, 224, "bicubic"), np.eye(224))


@pytest.mark.parametrize("bits", [16, 8])
def test_fewer_bits_of_weights_make_a_smaller_file(
    opened: OpenEncoder, whole: EncoderFile, bits: int, tmp_path: Path
) -> None:
    fewer = write_encoder(opened, tmp_path / "fewer.onnx", ExportSettings(weight_bits=bits))
    share = fewer.path.stat().st_size / whole.path.stat().st_size
    assert share == pytest.approx(bits / 32, abs=0.15)
    assert fewer.description["weight_bits"] == bits
    assert all(result.cosine > {16: 0.99999, 8: 0.999}[bits] for result in fewer.parity)
    held = {tensor.data_type for tensor in onnx.load(fewer.path).graph.initializer}
    assert {16: onnx.TensorProto.FLOAT16, 8: onnx.TensorProto.INT8}[bits] in held
    with pytest.raises(ConfigError, match="use 32, 16, 8"):
        ExportSettings(weight_bits=4)


def test_fp16_graph_computes_in_half_precision(opened: OpenEncoder, tmp_path: Path) -> None:
    written = write_encoder(opened, tmp_path / "half.onnx", ExportSettings(precision="fp16"))
    model = open_tile_model(written.path)
    given = some_tiles(2)
    np.testing.assert_allclose(model.encode(given), opened.features(given), atol=0.05)
    wide = {tensor.data_type for tensor in onnx.load(written.path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in wide
    with pytest.raises(ConfigError, match="fp16 has weights of 16 bits"):
        ExportSettings(precision="fp16", weight_bits=8)
    with pytest.raises(ConfigError, match="quantizes convolutions"):
        ExportSettings(precision="int8")
    with pytest.raises(ConfigError, match="use fp32, fp16, int8 for onnxruntime"):
        ExportSettings(precision="bf16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_reads_its_forms(whole: EncoderFile, precision: str) -> None:
    """As `export --format tensorrt` makes them; parsed by TensorRT-RTX, run on no GPU."""
    trt = tensorrt_rtx()
    model = onnx.load(whole.path)
    to_standard(model)
    content = convert_precision(model, precision).SerializeToString()
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(content)
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert tuple(network.get_output(0).shape) == (-1, 128)
    assert BUILD_FOR


def test_attention_is_two_products_and_a_softmax(whole: EncoderFile) -> None:
    """One per block, on tensors whose shapes are not computed."""
    graph = onnx.load(whole.path).graph
    maker = {name: node for node in graph.node for name in node.output}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == SMALL["depth"]
    for softmax in softmaxes:
        scores = maker[softmax.input[0]]
        assert scores.op_type == "MatMul"
        assert [maker[name].op_type for name in scores.input] == ["Mul", "Transpose"]
        (user,) = (node for node in graph.node if softmax.output[0] in node.input)
        assert user.op_type == "MatMul"
    shapes = [node for node in graph.node if node.op_type == "Shape"]
    assert [node.input[0] for node in shapes] == [TILES.name]  # the size of the batch


def test_attention_is_fused_by_openvino(opened: OpenEncoder, whole: EncoderFile) -> None:
    """No softmax of its own is left in what OpenVINO runs; features agree in fp32."""
    pytest.importorskip("openvino")
    given = some_tiles(2)
    with openvino.open_session(whole.path, opened.spec, "fp32", threads=1, streams=1) as session:
        (found,) = session.run({TILES.name: given}).values()
    np.testing.assert_allclose(found, opened.features(given), atol=1e-4)
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(str(whole.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [
        node.get_rt_info()["layerType"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
    ]
    assert "Softmax" not in kinds, kinds


def test_features_beyond_the_gate_are_refused(
    opened: OpenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that forgets to subtract the mean."""

    def careless(encoder: Any, design: EncoderDesign) -> Any:
        return encoder_model.EncoderGraph(encoder, replace(design, mean=(0.0, 0.0, 0.0)))

    monkeypatch.setattr(encoder_export, "EncoderGraph", careless)
    with pytest.raises(ParityError, match=r"small: the file's features differ from timm's by"):
        write_encoder(opened, tmp_path / "out" / "small.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_gate_of_fp32_is_a_ten_thousandth_of_the_range(
    opened: OpenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 16 bits pass their own gate, and not that of fp32."""
    monkeypatch.setitem(encoder_export._AS_STORED, 16, "fp32")
    with pytest.raises(ParityError, match="beyond the gate of fp32"):
        write_encoder(opened, tmp_path / "small.onnx", ExportSettings(weight_bits=16))


def test_weights_that_no_file_holds_are_refused_before_the_work(
    opened: OpenEncoder, tmp_path: Path
) -> None:
    large = replace(opened, cost=replace(opened.cost, parameters=1_135_000_000))
    with pytest.raises(ConfigError, match=r"32 bits take 4\.5 GB, .* pass --weight-bits 8$"):
        write_encoder(large, tmp_path / "large.onnx")
    middle = replace(opened, cost=replace(opened.cost, parameters=681_000_000))
    with pytest.raises(ConfigError, match=r"2\.7 GB, .* pass --weight-bits 16 or 8$"):
        write_encoder(middle, tmp_path / "large.onnx")


def test_existing_file_is_kept(opened: OpenEncoder, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists; choose another --out or pass --force"):
        write_encoder(opened, out)
    assert out.read_text() == "mine"
    write_encoder(opened, out, ExportSettings(force=True))
    assert open_tile_model(out).feature_dim == 128
    with pytest.raises(OutputError, match=r"name it \*\.onnx"):
        write_encoder(opened, tmp_path / "small.bin")


def test_safetensors_are_read_and_damage_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(3.0)}, path)
    assert read_weights(path)["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors"):
        read_weights(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "absent.safetensors")


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": Path("x"), "b": print}, tmp_path / "bad.bin")
    with pytest.raises(CheckpointError, match="refused"):
        read_weights(tmp_path / "bad.bin")


def test_size_that_the_network_is_built_for_is_taken() -> None:
    assert design_of_network("test_vit", arguments={"img_size": 96}).input_px == 96
    assert design_of_network("test_vit", arguments={"img_size": 96}, input_px=160).input_px == 160
    with pytest.raises(ConfigError, match=r"not take images of 96 px .* --timm-arg img_size=96"):
        encoder_model.feature_dim_of(build_encoder(small_vit()), 96)


def test_what_timm_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'vit_tiny_patch16_225': not in timm"):
        design_of_network("vit_tiny_patch16_225")
    with pytest.raises(ConfigError, match=r"vit_tiny_patch16_224 with .*no_such.*correct"):
        build_encoder(small_vit(arguments={"no_such": 1}))
    with pytest.raises(ConfigError, match="has no tokens; leave out --pool"):
        build_encoder(EncoderDesign("r", "test_resnet", pooling="cls"))


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "timm":
            raise failure
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    failure: Exception = ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    with pytest.raises(BackendError, match=r"pip install .*\[encoders\]"):
        import_timm()
    failure = RuntimeError("operator torchvision::nms does not exist")
    with pytest.raises(BackendError, match=r"nms does not exist\); install the torchvision that"):
        import_timm()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"name": "x"}),
        json.dumps({"name": "a\nb", "mean": [0, 0, 0], "std": [1, 1, 1], "mpp": None}),
        json.dumps({"name": "x", "mean": [0, 0, 0], "std": [1, 0, 1], "mpp": None}),
        json.dumps({"name": "x", "mean": [0, 0], "std": [1, 1], "mpp": None}),
        json.dumps({"name": "x", "mean": [0, 0, 0], "std": [1, 1, 1], "mpp": -1}),
    ],
)
def test_damaged_description_is_refused(whole: EncoderFile, content: str, tmp_path: Path) -> None:
    model = onnx.load(whole.path)
    onnx.helper.set_model_props(model, {DESCRIPTION: content})
    onnx.save(model, tmp_path / "small.onnx")
    with pytest.raises(ContractError, match=r"property triplex\.encoder cannot be read"):
        open_tile_model(tmp_path / "small.onnx")


def test_small_weights_stay_as_they_are(opened: OpenEncoder) -> None:
    from triplex_deploy.exporters.encoder_model import EncoderGraph
    from triplex_deploy.exporters.to_onnx import model_with_stored_weights

    graph = EncoderGraph(opened.encoder, opened.design).eval()
    model = model_with_stored_weights(
        graph, tile_encoder_graph(128), lambda model: store_weights(model, 8)
    )
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    float32 = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert any("norm" in name for name in float32)
    assert any(name.endswith("pixel_mean") for name in float32)
    assert not any(name.endswith("qkv.weight") for name in float32)
    patches = [name for name, kind in kinds.items() if "patch_embed" in name and "half" in name]
    assert patches
