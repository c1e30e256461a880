"""The entry of an ONNX file in the manifest: its opset, and the digest of what it computes."""

from pathlib import Path

import onnx

from triplex_deploy.exporters.bundle_manifest import graph_digest, graph_entry
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.runtime.model import RunnableBundle


def _changed(source: Path, note: str = "", weight: bool = False) -> onnx.ModelProto:
    model = onnx.load(source)
    if note:
        onnx.helper.set_model_props(model, {"triplex.genes": note})
    if weight:
        raw = bytearray(model.graph.initializer[0].raw_data)
        raw[0] ^= 1
        model.graph.initializer[0].raw_data = bytes(raw)
    return model


def test_digest_depends_on_weights_and_not_on_properties(bundle: RunnableBundle) -> None:
    path = bundle.path / "tile_encoder.onnx"
    wanted = bundle.entry("tile_encoder", "onnxruntime").graph_sha256
    assert graph_digest(onnx.load(path)) == wanted
    assert graph_digest(_changed(path, note="GNAS, ERBB2")) == wanted
    assert graph_digest(_changed(path, weight=True)) != wanted
    assert graph_digest(onnx.load(bundle.path / "target_encoder.onnx")) != wanted


def test_entry_describes_the_file(bundle: RunnableBundle) -> None:
    path, spec = bundle.path / "fusion_head.onnx", bundle.specs["fusion_head"]
    entry = graph_entry(bundle.path, path, spec, "fp32", "onnxruntime")
    assert entry == bundle.entry("fusion_head", "onnxruntime")
    assert (entry.file, entry.opset, entry.sha256) == (path.name, 20, sha256_of(path))
