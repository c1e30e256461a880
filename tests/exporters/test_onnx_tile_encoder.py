"""The ONNX tile encoder of a user: in training, in the bundle, and refusals."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.variants import VARIANTS, variant_checkpoint
from triplex_deploy.contract import graph_specs
from triplex_deploy.errors import CheckpointError, ContractError
from triplex_deploy.exporters.bundle_manifest import graph_entry
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.onnx_tile_encoder import open_onnx_encoder, write_onnx_encoder
from triplex_deploy.models import TileEncoderWeights
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.training.tile_encoder import open_tile_encoder

SPEC = graph_specs(VARIANTS["foreign features"])["tile_encoder"]
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.125)


def channel_means(
    takes: str, names: tuple[str, str] = ("images", "pooled"), batch: str | int = "n"
) -> onnx.ModelProto:
    """A graph whose features are its input's channel means, plus a constant that is listed as an
    input too, as old exporters do."""
    is_bytes = takes == "uint8"
    height, width = (1, 2) if is_bytes else (2, 3)
    axes = [  # one after the other: a single float32 sum of a tile loses four digits
        numpy_helper.from_array(np.array([width]), "width"),
        numpy_helper.from_array(np.array([height]), "height"),
    ]
    zero = numpy_helper.from_array(np.zeros(3, np.float32), "features")  # the contract's own name
    given, taken = names
    nodes = [
        helper.make_node("Cast", [given], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "width"], ["rows"], keepdims=0),
        helper.make_node("ReduceMean", ["rows", "height"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "features"], [taken]),
    ]
    shape = [batch, 224, 224, 3] if is_bytes else [batch, 3, 224, 224]
    kind = TensorProto.UINT8 if is_bytes else TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info(given, kind, shape),
    ]
    output = helper.make_tensor_value_info(taken, TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "means", inputs, [output], [*axes, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"triplex.graph": "mine", "license": "theirs"})
    return model


def weights(model: onnx.ModelProto) -> TileEncoderWeights:
    content = model.SerializeToString()
    return TileEncoderWeights("means", "onnx", {}, content, feature_dim=3, mean=MEAN, std=STD)


@pytest.mark.parametrize("takes", ["uint8", "float32"])
@pytest.mark.parametrize("names", [("images", "pooled"), ("tiles", "embedding")])
def test_graph_gives_the_features_training_saw(
    takes: str, names: tuple[str, str], tmp_path: Path
) -> None:
    """Bytes are not changed; float images are normalized with the mean and std of the file."""
    encoder = weights(channel_means(takes, names))
    write_onnx_encoder(encoder, SPEC, {}, tmp_path / "t.onnx")
    entry = graph_entry(tmp_path, tmp_path / "t.onnx", SPEC, "fp32", "onnxruntime")
    assert entry.opset == 18
    with open_ort_session(tmp_path / "t.onnx", SPEC) as session:
        for size in (1, 5):
            tiles = graph_inputs(SPEC, size)["tiles"]
            found = session.run({"tiles": tiles})["features"]
            byte_means = tiles.mean(axis=(1, 2))
            expected = byte_means if takes == "uint8" else (byte_means / 255 - MEAN) / STD
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            np.testing.assert_allclose(found, open_onnx_encoder(encoder).encode(tiles), rtol=1e-5)


def test_metadata_of_the_file_stays_beside_ours(tmp_path: Path) -> None:
    encoder = weights(channel_means("uint8"))
    write_onnx_encoder(encoder, SPEC, {"triplex.graph": "tile_encoder"}, tmp_path / "t.onnx")
    stored = [(p.key, p.value) for p in onnx.load(tmp_path / "t.onnx").metadata_props]
    assert sorted(stored) == [("license", "theirs"), ("triplex.graph", "tile_encoder")]


def test_fixed_batch_is_refused_with_the_way_out() -> None:
    with pytest.raises(CheckpointError, match=r"exactly 2 tiles; export it with a dynamic batch"):
        open_onnx_encoder(weights(channel_means("uint8", batch=2)))


def test_weights_in_another_file_are_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    model = channel_means("uint8")
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="split.data")
    with pytest.raises(ContractError, match=r"split\.onnx: keeps its weights in another file"):
        open_tile_encoder(path)
    onnx.save(onnx.load(path), tmp_path / "one.onnx")
    assert open_tile_encoder(tmp_path / "one.onnx").feature_dim == 3


@pytest.mark.slow
@pytest.mark.parametrize("takes", ["uint8", "float32"])
def test_bundle_with_a_foreign_encoder_passes_its_gate(takes: str, tmp_path: Path) -> None:
    from triplex_deploy.exporters.export import export_bundle
    from triplex_deploy.models import write_checkpoint

    config = VARIANTS["foreign features"]
    checkpoint = variant_checkpoint(config, weights(channel_means(takes)))
    write_checkpoint(checkpoint, tmp_path / "model.ckpt")
    bundle, report = export_bundle(tmp_path / "model.ckpt", tmp_path / "bundle")
    assert report.passed
    facts = json.loads((bundle.path / "manifest.json").read_text())["provenance"]["tile_encoder"]
    assert (facts["kind"], facts["feature_dim"], facts["std"]) == ("onnx", 3, list(STD))
