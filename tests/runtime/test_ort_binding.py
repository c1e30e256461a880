"""ONNX Runtime with inputs and outputs bound in the device's memory; here the device is the CPU."""

import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime import ort, ort_rows
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort import OrtSession
from triplex_deploy.runtime.ort_load import (
    Tuning,
    cuda_device_count,
    cuda_options,
    free_gpu_bytes,
    load_session,
)
from triplex_deploy.runtime.session import DeviceMemoryError


def bound(bundle: RunnableBundle, graph: str) -> OrtSession:
    path = bundle.path / bundle.entry(graph, "onnxruntime").file
    return OrtSession(bundle.specs[graph], load_session(path, threads=1), CPU, bound=True)


def test_bound_run_equals_the_plain_one_at_changing_sizes(
    bundle: RunnableBundle, model: Model
) -> None:
    with bound(bundle, "neighbor_encoder") as session:
        for size in (3, 3, 5, 1):
            inputs = graph_inputs(session.spec, size, seed=size)
            wanted = model.run("neighbor_encoder", inputs)["neighbor_tokens"]
            found = session.run(inputs)["neighbor_tokens"]
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_kept_output_feeds_the_next_graph_by_rows(bundle: RunnableBundle, model: Model) -> None:
    around = graph_inputs(bundle.specs["neighbor_encoder"], 6)
    views: dict[str, Any] = graph_inputs(bundle.specs["fusion_head"], 3)
    views["neighbor_tokens"] = model.run("neighbor_encoder", around)["neighbor_tokens"][2:5]
    wanted = model.run("fusion_head", views)["expression"]
    with bound(bundle, "neighbor_encoder") as first, bound(bundle, "fusion_head") as second:
        kept = first.run_kept(around)["neighbor_tokens"]
        assert isinstance(kept, DeviceArray)
        assert kept.shape == (6, 25, 512)
        tokens = kept[2:5]
        np.testing.assert_array_equal(tokens[1:].numpy(), kept.numpy()[3:5])
        found = second.run({**views, "neighbor_tokens": tokens})["expression"]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_uploaded_array_feeds_graphs_by_rows(bundle: RunnableBundle, model: Model) -> None:
    tiles = graph_inputs(bundle.specs["tile_encoder"], 5)["tiles"]
    features = model.run("tile_encoder", {"tiles": tiles})["features"]
    tokens = model.run("target_encoder", {"tiles": tiles[3:]})["target_tokens"]
    with bound(bundle, "tile_encoder") as first, bound(bundle, "target_encoder") as second:
        uploaded = first.upload(tiles.copy())
        assert isinstance(uploaded, DeviceArray)
        found = first.run({"tiles": uploaded[:4]})["features"]
        np.testing.assert_allclose(found, features[:4], atol=1e-5)
        found = second.run({"tiles": uploaded[3:]})["target_tokens"]
        np.testing.assert_allclose(found, tokens, atol=1e-5)


def test_array_without_room_for_it_is_not_uploaded(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph then copies its own batch, and cuts it if memory is too small."""

    def no_room(*_: object) -> object:
        raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(ort, "on_device", no_room)
    tiles = np.zeros((2, 224, 224, 3), np.uint8)
    with bound(bundle, "tile_encoder") as session:
        assert session.upload(tiles) is tiles


def test_kept_output_of_the_cpu_is_a_plain_array(model: Model) -> None:
    session = model.session("neighbor_encoder")
    kept = session.run_kept(graph_inputs(session.spec, 2))
    assert isinstance(kept["neighbor_tokens"], np.ndarray)


def test_threads_do_not_share_input_buffers(bundle: RunnableBundle, model: Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with bound(bundle, "neighbor_encoder") as session, ThreadPoolExecutor(4) as pool:
        batches = [graph_inputs(session.spec, 6, seed) for seed in range(12)]
        found = list(pool.map(session.run, batches))
        for outputs, inputs in zip(found, batches, strict=True):
            wanted = model.run("neighbor_encoder", inputs)["neighbor_tokens"]
            np.testing.assert_allclose(outputs["neighbor_tokens"], wanted, atol=1e-6)


def test_remedy_is_for_what_the_graph_takes(bundle: RunnableBundle) -> None:
    """``--batch-size`` counts tiles; no option sets the number of spots in a call."""

    def refuse(*_: object) -> Any:
        raise DeviceMemoryError("no memory")

    remedies = {
        "tile_encoder": "at 4 batch; lower --batch-size below 4, or free the GPU's memory",
        "fusion_head": "at 4 batch; free the GPU's memory",
        "global_encoder": "at 8 spots; predict the slide in parts with --region-mm, or free",
    }
    for name, remedy in remedies.items():
        spec = bundle.specs[name]
        inputs = graph_inputs(spec, 8)
        with pytest.raises(BackendError, match=f"no memory, {remedy}"):
            BatchLimit(spec).run(inputs, refuse)
        with pytest.raises(BackendError, match=f"no memory, {remedy}"):
            BatchLimit(spec).run_kept(inputs, refuse, refuse)


class Exhausted:
    """Stands in for a session on a GPU with memory for at most three rows."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.refused: list[int] = []
        self.size = 0

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        if self.size > 3:
            self.refused.append(self.size)
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9")
        self.session.run_with_iobinding(binding)


def test_out_of_memory_goes_on_with_half_the_batch_and_says_so(
    bundle: RunnableBundle, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with bound(bundle, "neighbor_encoder") as session:
        exhausted = Exhausted(session._session)
        real = session._bound_outputs

        def sized(inputs: Any) -> Any:
            exhausted.size = len(inputs["mask"])
            return real(inputs)

        session._session, session._bound_outputs = exhausted, sized  # type: ignore[method-assign]
        inputs = graph_inputs(session.spec, 6)
        wanted = model.run("neighbor_encoder", inputs)["neighbor_tokens"]
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                found = session.run(inputs)["neighbor_tokens"]
                np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert exhausted.refused == [6]
        assert [m for m in caplog.messages if "a batch of 6, going on with 3" in m] == (
            caplog.messages
        )
        session._limit = BatchLimit(session.spec)
        caplog.clear()
        kept = session.run_kept(inputs)["neighbor_tokens"]
        np.testing.assert_allclose(kept, wanted, atol=1e-6)
        assert exhausted.refused == [6, 6]
        assert "a batch of 6, going on with 3" in caplog.text
        session._limit = BatchLimit(session.spec)
        with pytest.raises(BackendError, match=r"at 10 batch; free the GPU's memory"):
            session.run(graph_inputs(session.spec, 20))


def test_fp32_on_a_gpu_is_not_tf32() -> None:
    """The default of ONNX Runtime's CUDA provider is TF32."""
    assert cuda_options(Device("cuda", 1), Tuning())["use_tf32"] == "0"
    options = cuda_options(Device("cuda", 1), Tuning(tf32=True))
    assert (options["use_tf32"], options["device_id"]) == ("1", "1")


def test_threads_and_spinning_reach_the_session(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu", threads=1, spinning=False) as opened:
        session = opened.sessions["fusion_head"]
        options = session._session.get_session_options()  # type: ignore[attr-defined]
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_graphs_of_rows_are_those_of_onnx() -> None:
    from onnx import TensorProto, helper

    def graph(name: str, node: Any, inputs: list[Any], output: Any) -> str:
        model = helper.make_model(
            helper.make_graph([node], name, inputs, [output]),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=9,
        )
        return base64.b64encode(model.SerializeToString()).decode()

    def floats(name: str, *axes: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    def numbers(*axes: Any) -> Any:
        return helper.make_tensor_value_info("rows", TensorProto.INT64, axes)

    table, values = floats("table", "n", "w"), floats("values", "b", "w")
    gather = helper.make_node("Gather", ["table", "rows"], ["values"])
    scatter = helper.make_node("ScatterND", ["table", "rows", "values"], ["changed"])
    assert graph("gather", gather, [table, numbers("b")], values) == ort_rows.GATHER
    changed = floats("changed", "n", "w")
    assert graph("scatter", scatter, [table, numbers("b", 1), values], changed) == ort_rows.SCATTER


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_rows, "free_gpu_bytes", lambda _: 1 << 20)


@pytest.mark.usefixtures("room")
def test_rows_are_stored_and_gathered_without_the_host(bundle: RunnableBundle) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(9, 4, 3)).astype(np.float32)
    table = ort_rows.open_ort_table(CPU, (9, 4, 3))
    assert table is not None
    with bound(bundle, "tile_encoder") as session:
        table.put(np.array([8, 2, 5]), values[[8, 2, 5]])
        kept = session.upload(values[[0, 1, 3, 4, 6, 7]])
        table.put(np.array([0, 1, 3]), kept[:3])
        table.put(np.array([4, 6, 7]), kept[3:])
        table.put(np.zeros(0, np.int64), values[:0])
    rows = random.integers(0, 9, (2, 5))
    found = table.take(rows, room=4)
    assert found.shape == (2, 5, 4, 3)
    np.testing.assert_array_equal(found.numpy(), values[rows])
    np.testing.assert_array_equal(found[1:].numpy(), values[rows[1:]])
    padded, first = found.window(4) or (found, -1)
    assert (len(padded), first) == (4, 0)
    with pytest.raises(ContractError, match="rows 0 to 9: the table has 9"):
        table.take(np.array([0, 9]))
    table.close()
    with pytest.raises(BackendError, match="is closed"):
        table.take(np.array([0]))


@pytest.mark.usefixtures("room")
def test_several_threads_store_rows_at_once() -> None:
    values = np.arange(400 * 8, dtype=np.float32).reshape(400, 8)
    table = ort_rows.open_ort_table(CPU, values.shape)
    assert table is not None
    parts = np.split(np.random.default_rng(1).permutation(400), 40)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rows: table.put(rows, values[rows]), parts))
    np.testing.assert_array_equal(table.take(np.arange(400)).numpy(), values)


@pytest.mark.usefixtures("room")
def test_no_table_without_memory_or_with_wrong_rows(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound(bundle, "tile_encoder") as session:
        assert session.open_table((10, 8)) is not None
        assert session.open_table((1 << 18, 8)) is None, "more than half of the free memory"
        session._opens_tables = False  # as with a limit of memory
        assert session.open_table((10, 8)) is None
    monkeypatch.setattr(ort_rows.OrtRowTable, "put", lambda *_: None)
    assert ort_rows.open_ort_table(CPU, (10, 8)) is None


def test_a_machine_without_a_driver_has_no_free_gpu_memory() -> None:
    assert cuda_device_count() > 0 or free_gpu_bytes(0) is None
