"""int8 is calibrated on tissue, close to the float graph, and keeps few layers in float."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.inputs import tiles
from triplex_deploy.exporters.int8 import Quantizer, int8_share, quantize, split_calibration
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.exporters.rounding import round_weights
from triplex_deploy.pipeline.sample import sample_tiles
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.runtime.replay import replay_parity


def _tiles(count: int) -> np.ndarray:
    return tiles((count, 224, 224, 3), np.random.default_rng(7))


def test_held_out_tiles_are_not_calibrated_on() -> None:
    numbered = np.zeros((40, 224, 224, 3), np.uint8)
    numbered += np.arange(40, dtype=np.uint8)[:, None, None, None]
    calibration, held_out = split_calibration(numbered)
    kept, held = set(calibration[:, 0, 0, 0].tolist()), set(held_out[:, 0, 0, 0].tolist())
    assert (len(kept), len(held)) == (24, 16)
    assert not kept & held
    assert {0, 39} <= held


def test_too_few_or_unsuitable_calibration_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="31 tiles"):
        split_calibration(_tiles(31))
    with pytest.raises(ConfigError, match="float32"):
        split_calibration(np.zeros((40, 224, 224, 3), np.float32))


def test_int8_without_calibration_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8 and fp8 need slides"):
        ExportOptions(precision="int8")
    with pytest.raises(ConfigError, match="other precisions take none"):
        ExportOptions(calibration=_tiles(1))
    with pytest.raises(ConfigError, match="'fp4'"):
        ExportOptions(precision="fp4")


def test_sampled_tiles_are_the_slides_own_pixels(tmp_path: Path) -> None:
    path = tmp_path / "tissue.tif"
    synthesize_slide(path, 900, 900, 0.5, seed=1)
    sampled = sample_tiles(path, 0.5, count=5)
    assert sampled.shape == (5, 224, 224, 3)
    assert sampled.std() > 10
    assert len(sample_tiles(path, 0.5, count=1000)) < 17


@pytest.mark.slow
def test_int8_bundle_passes_its_gate_and_keeps_transformers_exact(
    checkpoint_path: Path, tmp_path: Path
) -> None:
    options = ExportOptions(precision="int8", calibration=_tiles(48))
    bundle, report = export_bundle(checkpoint_path, tmp_path / "bundle", options)
    assert bundle.manifest.precision == "int8"
    precision = {entry.name: entry.precision for entry in bundle.manifest.graphs}
    assert precision == {
        "tile_encoder": "int8",
        "target_encoder": "int8",
        "neighbor_encoder": "fp32",
        "global_encoder": "fp32",
        "fusion_head": "fp32",
    }
    sizes = [graph.size for graph in report.graphs if graph.graph == "tile_encoder"]
    assert sizes == [1, 4, 16, 16], "the held-out slide tiles are the fourth case"
    graph = onnx.load(bundle.path / "tile_encoder.onnx").graph
    weights = [init for init in graph.initializer if init.data_type == onnx.TensorProto.INT8]
    made = report.quantization["tile_encoder"]
    assert len([init for init in weights if len(init.dims) == 4]) == 20 - len(made.float_layers)
    assert made.int8_share >= 0.9
    assert bundle.manifest.provenance["quantization"]["tile_encoder"] == made.to_dict()
    assert made.float_layers[0] in (bundle.path / "README.md").read_text(encoding="utf-8")
    with load_bundle(bundle.path).open(device="cpu") as model:
        assert all(result.passed for result in replay_parity(model))


def _convolutions(tmp_path: Path, n_layers: int = 4) -> Path:
    """Write a chain of n_layers convolutions with ReLU on tiles, and their mean."""
    rng = np.random.default_rng(3)
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], "cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x0"], "transpose", perm=[0, 3, 1, 2]),
    ]
    weights, channels = [], 3
    for i in range(n_layers):
        side, wide = (3, 8) if i == 0 else (1, 8 * (i + 1))
        scale = 1 / (255 if i == 0 else 1) / channels**0.5 / side
        array = (rng.standard_normal((wide, channels, side, side)) * scale).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(array, f"layer{i}.weight"))
        stride = [8, 8] if i == 0 else [1, 1]
        names = [f"x{i}", f"layer{i}.weight"]
        nodes.append(helper.make_node("Conv", names, [f"y{i}"], f"conv{i}", strides=stride))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"], f"relu{i}"))
        channels = wide
    last = f"x{n_layers}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], "flatten"))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("tiles", onnx.TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", channels])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "encoder.onnx"
    onnx.save(model, path)
    return path


def test_only_the_first_layer_stays_in_float_if_that_is_enough(tmp_path: Path) -> None:
    made = quantize(_convolutions(tmp_path), _tiles(32), tmp_path / "int8.onnx")
    assert made.float_layers == ("layer0",)
    assert made.cosine > 0.99
    assert made.weight_bits == 8
    # 28 x 28 places: 3 x 9 x 8 in float, then 8 x 16, 16 x 24, 24 x 32
    assert made.int8_share == pytest.approx(1280 / (216 + 1280))
    assert made.int8_share == int8_share(tmp_path / "int8.onnx")


def test_no_more_layers_stay_in_float_than_the_share_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.exporters.int8.MIN_SHARE", 0.5)
    source = _convolutions(tmp_path)
    made = quantize(source, _tiles(32), tmp_path / "int8.onnx", min_cosine=1.1)
    # with the third layer in float too, 768 of 1496 multiplications are in int8
    assert made.float_layers == ("layer0", "layer1", "layer2")
    assert made.int8_share >= 0.5


def test_the_search_finds_the_fewest_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.exporters.int8.MIN_SHARE", 0.1)
    source = _convolutions(tmp_path, 6)
    with Quantizer(source, _tiles(32)) as quantizer:
        out = tmp_path / "int8.onnx"
        two = quantizer._quantized(out, 3).cosine
        made = quantizer.write(out, two)
        assert made.cosine >= two
        assert len(made.float_layers) <= 3
        fewer = len(made.float_layers) - 1
        assert fewer == 0 or quantizer._quantized(out, fewer).cosine < two


def test_seven_bits_stay_within_their_range(tmp_path: Path) -> None:
    made = quantize(_convolutions(tmp_path), _tiles(32), tmp_path / "int8.onnx", weight_bits=7)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    arrays = [onnx.numpy_helper.to_array(init) for init in graph.initializer]
    weights = [array for array in arrays if array.ndim == 4 and array.dtype == np.int8]
    assert made.weight_bits == 7
    assert len(weights) == 3
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) <= 64
    with pytest.raises(ConfigError, match="use 8 or 7"):
        ExportOptions(precision="int8", calibration=_tiles(32), int8_weights=6)


def test_rounding_makes_up_for_errors_of_correlated_inputs() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((4000, 4)) @ rng.standard_normal((4, 32))
    inputs = mixed + 0.05 * rng.standard_normal(mixed.shape)
    weights = rng.standard_normal((16, 32)).astype(np.float32)
    scale = np.abs(weights).max(axis=1, keepdims=True) / 127
    nearest = np.rint(weights / scale) * scale
    rounded = round_weights(weights, inputs.T @ inputs / len(inputs), 127)
    assert np.allclose(np.abs(rounded).max(axis=1), np.abs(weights).max(axis=1))
    assert np.allclose(rounded / scale, np.rint(rounded / scale), atol=1e-3)
    error, plain = (np.square(inputs @ (w - weights).T).sum() for w in (rounded, nearest))
    assert error < plain / 2
