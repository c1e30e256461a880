"""TensorRT sessions on stand-ins for the GPU: equal numbers, no races, clear errors."""

import gc
import logging
from typing import Any

import numpy as np
import pytest

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime.device_array import DeviceArray, Tensors
from triplex_deploy.runtime.model import Model, RunnableBundle

SIZES = {"tile_encoder": 3, "target_encoder": 2, "global_encoder": 30}


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


def neighbors(bundle: RunnableBundle, batch: int, seed: int = 0) -> dict[str, Any]:
    return graph_inputs(bundle.specs["neighbor_encoder"], batch, seed)


@pytest.mark.usefixtures("installed")
def test_every_graph_equals_onnxruntime(engine_bundle: RunnableBundle, model: Model) -> None:
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        assert (engines.backend, str(engines.device)) == ("tensorrt", "cuda:0")
        for name, spec in engine_bundle.specs.items():
            inputs = graph_inputs(spec, SIZES.get(name, 5))
            assert_equal(engines.run(name, inputs), model.run(name, inputs))


@pytest.mark.usefixtures("installed")
def test_batch_beyond_the_profile_is_cut_and_joined(
    engine_bundle: RunnableBundle, model: Model
) -> None:
    inputs = neighbors(engine_bundle, 21)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        assert_equal(engines.run("neighbor_encoder", inputs), model.run("neighbor_encoder", inputs))


@pytest.mark.usefixtures("installed")
def test_next_batch_is_copied_before_the_last_is_awaited(
    engine_bundle: RunnableBundle, gpu: StandInGpu
) -> None:
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        gpu.clear()
        gpu.pause_until_wait()
        engines.run("neighbor_encoder", neighbors(engine_bundle, 16))
    queued_twice = [i for i, line in enumerate(gpu.log) if line == "queue compute"]
    first_done = gpu.log.index("begin compute")
    assert len(queued_twice) == 2
    assert max(queued_twice) < first_done


@pytest.mark.usefixtures("installed")
def test_outputs_stay_on_the_device_between_graphs(
    engine_bundle: RunnableBundle, model: Model, gpu: StandInGpu
) -> None:
    around = neighbors(engine_bundle, 6)
    views: dict[str, Any] = graph_inputs(engine_bundle.specs["fusion_head"], 4)
    views["neighbor_tokens"] = model.run("neighbor_encoder", around)["neighbor_tokens"][1:5]
    wanted = model.run("fusion_head", views)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        gpu.clear()
        gpu.pause_until_wait()
        kept = engines.session("neighbor_encoder").run_kept(around)["neighbor_tokens"]
        assert isinstance(kept, DeviceArray)
        assert kept.shape == (6, 25, 512)
        assert kept.dtype == np.float32
        assert "begin compute" not in gpu.log
        inputs: Tensors = {**views, "neighbor_tokens": kept[1:5]}
        del kept
        assert_equal(engines.run("fusion_head", inputs), wanted)
        assert gpu.log.count("queue dtoh") == 1


@pytest.mark.usefixtures("installed")
def test_rows_that_are_not_aligned_are_copied_on_the_device(
    engine_bundle: RunnableBundle, model: Model, gpu: StandInGpu
) -> None:
    """A row of expression has 120 bytes, so the next row begins at an unaligned address."""
    spec = engine_bundle.specs["fusion_head"]
    views: dict[str, Any] = graph_inputs(spec, 3)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        kept = engines.session("fusion_head").run_kept(views)["expression"]
        np.testing.assert_allclose(
            kept[1:].numpy(), model.run("fusion_head", views)["expression"][1:], atol=1e-5
        )
        assert kept[1:].pointer % 256 != 0


@pytest.mark.usefixtures("installed")
def test_buffers_are_reused(engine_bundle: RunnableBundle, gpu: StandInGpu) -> None:
    inputs = neighbors(engine_bundle, 8)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        for _ in range(3):
            engines.run("neighbor_encoder", inputs)
        used = gpu.used_bytes
        for _ in range(6):
            engines.run("neighbor_encoder", inputs)
        assert gpu.used_bytes == used


@pytest.mark.usefixtures("installed")
def test_closing_frees_the_device(engine_bundle: RunnableBundle, gpu: StandInGpu) -> None:
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        engines.run("neighbor_encoder", neighbors(engine_bundle, 8))
        assert gpu.used_bytes > 0
    gc.collect()
    assert gpu.used_bytes == 0
    with pytest.raises(BackendError, match="closed"):
        engines.run("neighbor_encoder", neighbors(engine_bundle, 1))


@pytest.mark.usefixtures("installed")
def test_slide_outside_the_profile_names_the_remedy(engine_bundle: RunnableBundle) -> None:
    spec = engine_bundle.specs["global_encoder"]
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        for spots in (1, 41):
            with pytest.raises(
                ContractError, match=rf"{spots} spots, .* 2:8:40; .*--profile spots="
            ):
                engines.run("global_encoder", graph_inputs(spec, spots))


@pytest.mark.usefixtures("installed")
def test_out_of_memory_goes_on_with_half_the_batch_and_says_so(
    engine_bundle: RunnableBundle,
    model: Model,
    gpu: StandInGpu,
    trt: StandInTensorrt,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trt.scratch_bytes = 1 << 20
    gpu.set_total(7 << 20)
    inputs = neighbors(engine_bundle, 8)
    wanted = model.run("neighbor_encoder", inputs)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        with caplog.at_level(logging.WARNING):
            assert_equal(engines.run("neighbor_encoder", inputs), wanted)
        warned = [line for line in caplog.messages if "no memory" in line]
        assert len(warned) == 1
        assert "a batch of 8, going on with 4; free its memory" in warned[0]
        caplog.clear()
        assert_equal(engines.run("neighbor_encoder", inputs), wanted)
        assert caplog.messages == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("graph", "size", "remedy"),
    [("neighbor_encoder", 8, "at 4 batch; free the GPU"), ("global_encoder", 20, "--region-mm")],
)
def test_out_of_memory_at_half_the_batch_is_an_error(
    graph: str,
    size: int,
    remedy: str,
    engine_bundle: RunnableBundle,
    gpu: StandInGpu,
    trt: StandInTensorrt,
) -> None:
    trt.scratch_bytes = 4 << 20
    gpu.set_total(8 << 20)
    with (
        engine_bundle.open(device="cuda:0", backend="tensorrt") as engines,
        pytest.raises(BackendError, match=rf"NVIDIA Test 1: no \d+ MB left .*{remedy}"),
    ):
        engines.run(graph, graph_inputs(engine_bundle.specs[graph], size))


@pytest.mark.usefixtures("installed")
def test_other_threads_may_run_the_graphs(engine_bundle: RunnableBundle, model: Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    batches = [neighbors(engine_bundle, 3, seed) for seed in range(4)]
    with (
        engine_bundle.open(device="cuda:0", backend="tensorrt") as engines,
        ThreadPoolExecutor(2) as pool,
    ):
        found = list(pool.map(lambda inputs: engines.run("neighbor_encoder", inputs), batches))
    for outputs, inputs in zip(found, batches, strict=True):
        assert_equal(outputs, model.run("neighbor_encoder", inputs))


@pytest.mark.usefixtures("installed")
def test_stages_of_a_run_are_timed_separately(engine_bundle: RunnableBundle, model: Model) -> None:
    from triplex_deploy.bench.work import StagedSession

    inputs = neighbors(engine_bundle, 4)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        session = engines.session("neighbor_encoder")
        assert isinstance(session, StagedSession)
        outputs, seconds = session.run_staged(inputs)
    assert_equal(outputs, model.run("neighbor_encoder", inputs))
    assert list(seconds) == ["host_to_device", "compute", "device_to_host"]
    assert min(seconds.values()) > 0


@pytest.mark.usefixtures("installed")
def test_tensorrt_on_the_cpu_is_refused(engine_bundle: RunnableBundle) -> None:
    with pytest.raises(BackendError, match="tensorrt does not run on it; pass --device cuda"):
        engine_bundle.open(device="cpu", backend="tensorrt")
