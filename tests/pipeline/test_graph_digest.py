"""Two files of one graph have one digest, whatever else is noted in them."""

from pathlib import Path

import onnx
import pytest

from triplex_deploy.pipeline.graph_digest import graph_digest
from triplex_deploy.runtime.model import RunnableBundle


def _changed(source: Path, target: Path, note: str = "", weight: bool = False) -> Path:
    model = onnx.load(source)
    if note:
        onnx.helper.set_model_props(model, {"triplex.genes": note})
    if weight:
        raw = bytearray(model.graph.initializer[0].raw_data)
        raw[0] ^= 1
        model.graph.initializer[0].raw_data = bytes(raw)
    onnx.save(model, target)
    return target


def test_notes_do_not_matter_and_weights_do(bundle: RunnableBundle, tmp_path: Path) -> None:
    path = bundle.path / "tile_encoder.onnx"
    wanted = graph_digest(path)
    assert graph_digest(_changed(path, tmp_path / "a.onnx", note="GNAS, ERBB2")) == wanted
    assert graph_digest(_changed(path, tmp_path / "b.onnx", weight=True)) != wanted
    assert graph_digest(bundle.path / "target_encoder.onnx") != wanted


@pytest.mark.parametrize("content", [b"\x3a\xff\x01", b"\x0b", b"\xff" * 20, b"\x3a"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not an ONNX file"):
        graph_digest(path)
