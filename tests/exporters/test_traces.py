"""Traces are kept: with other weights, damaged entries, and two processes that write the same."""

import logging
import multiprocessing
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from tests.variants import BASELINES, VARIANTS, model_of
from triplex_deploy.contract import Config, graph_specs
from triplex_deploy.exporters import to_onnx
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.exporters.traces import read_trace, trace_folder, write_trace
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import TileEncoder
from triplex_deploy.runtime.ort import open_ort_session

ALL: dict[str, Config] = {**VARIANTS, **BASELINES}
KEY = "0" * 64
WRITES = 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache of traces."""
    return _use_cache(tmp_path / "cache", monkeypatch)


def _use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return trace_folder()


def _write(variant: str, graph: str, seed: int, path: Path) -> Path:
    config = ALL[variant]
    with torch.device("meta"):
        tile_encoder = TileEncoder().eval()
    module = graph_modules(model_of(config, seed), tile_encoder)[graph]
    write_onnx(module, graph_specs(config)[graph], "onnxruntime", {}, path)
    return path


def _outputs(variant: str, graph: str, path: Path) -> np.ndarray:
    spec = graph_specs(ALL[variant])[graph]
    inputs = graph_inputs(spec, 5, n_positions=getattr(ALL[variant], "n_positions", 1))
    with open_ort_session(path, spec, threads=1) as session:
        (output,) = session.run(inputs).values()
    return output


@pytest.mark.parametrize(
    ("variant", "graph"),
    [
        ("triplex", "global_encoder"),
        ("triplex", "fusion_head"),
        ("his_to_gene", "target_encoder"),
        ("his_to_gene", "global_encoder"),
    ],
)
def test_kept_trace_with_other_weights_equals_a_fresh_trace(
    variant: str, graph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _use_cache(tmp_path / "known", monkeypatch)
    first = _write(variant, graph, 0, tmp_path / "first.onnx")
    assert len(list(folder.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(to_onnx, "_trace", lambda *_: pytest.fail("traced again"))
        patch.setattr(to_onnx, "_optimize", lambda *_: pytest.fail("optimized again"))
        known = _write(variant, graph, 1, tmp_path / "known.onnx")
    _use_cache(tmp_path / "empty", monkeypatch)
    fresh = _write(variant, graph, 1, tmp_path / "fresh.onnx")
    assert known.read_bytes() == fresh.read_bytes() != first.read_bytes()
    found = _outputs(variant, graph, known)
    np.testing.assert_array_equal(found, _outputs(variant, graph, fresh))
    assert np.abs(found - _outputs(variant, graph, first)).max() > 1e-3


def test_damaged_entry_is_ignored_and_replaced(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = _write("his_to_gene", "fusion_head", 0, tmp_path / "before.onnx").read_bytes()
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    for damaged in (b"", whole[:40], whole[:-1], whole[:50] + b"?" + whole[51:]):
        entry.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            found = _write("his_to_gene", "fusion_head", 0, tmp_path / "after.onnx").read_bytes()
        assert f"{entry}: damaged" in caplog.text
        assert found == wanted
        assert list(cache.iterdir()) == [entry]
        assert read_trace(entry.stem) is not None
        caplog.clear()


def test_two_processes_write_one_entry_at_once(cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(3)
    writers = [context.Process(target=_write_often, args=(ready, n)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=120)
    while any(writer.is_alive() for writer in writers):
        trace = read_trace(KEY)
        assert trace is None or trace == _model(trace.graph.node[0].name)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [path.name for path in cache.iterdir()] == [f"{KEY}.trace"]
    assert read_trace(KEY) in (_model("1"), _model("2"))


def _write_often(ready: "multiprocessing.synchronize.Barrier", number: int) -> None:
    model = _model(str(number))
    ready.wait(timeout=120)
    for _ in range(WRITES):
        write_trace(KEY, model)


def _model(name: str) -> ModelProto:
    """Return a model of one node with this name and many properties that repeat it."""
    node = onnx.helper.make_node("Identity", ["x"], ["y"], name=name)
    value = onnx.helper.make_tensor_value_info
    tensors = [value(tensor, onnx.TensorProto.FLOAT, [1]) for tensor in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", tensors[:1], tensors[1:]), producer_name=""
    )
    onnx.helper.set_model_props(model, {"note": name * 300_000})
    return model
