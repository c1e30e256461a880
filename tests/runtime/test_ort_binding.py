"""ONNX Runtime with inputs and outputs bound in the device's memory; here the device is the CPU."""

import logging
from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime import ort
from triplex_deploy.runtime.batching import BatchLimit
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort import OrtSession, Tuning, _cuda_options, load_session
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

    monkeypatch.setattr(ort, "_on_device", no_room)
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
    assert _cuda_options(Device("cuda", 1), Tuning())["use_tf32"] == "0"
    options = _cuda_options(Device("cuda", 1), Tuning(tf32=True))
    assert (options["use_tf32"], options["device_id"]) == ("1", "1")


def test_threads_and_spinning_reach_the_session(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu", threads=1, spinning=False) as opened:
        session = opened.sessions["fusion_head"]
        options = session._session.get_session_options()  # type: ignore[attr-defined]
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
