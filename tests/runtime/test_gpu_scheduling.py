"""Work on a GPU overlaps, frees what it took and survives faults; on a stand-in for the driver.

What overlaps is asserted by the order of events and not by time: streams are paused, so that
nothing is done before everything that must not wait is queued.
"""

import gc
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime.concurrent_sessions import share_gpu
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort_load import cuda_device_count
from triplex_deploy.runtime.session import DeviceMemoryError, LostDeviceError
from triplex_deploy.runtime.tensorrt.build import EngineSettings, build_plan
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import MemoryPool
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange
from triplex_deploy.runtime.tensorrt.reasons import error_collector
from triplex_deploy.runtime.tensorrt.session import TrtSession, open_trt_session

Opened = Callable[[str], TrtSession]
"""Opens the engine of one graph; it is closed with the test."""
PROFILES = {"batch": ProfileRange(1, 4, 8), "spots": ProfileRange(2, 8, 40)}


@pytest.fixture
def engine(bundle: RunnableBundle, trt: StandInTensorrt, cuda: Cuda) -> Iterator[Opened]:
    with ExitStack() as stack:
        reasons = error_collector(trt)
        runtime = trt.Runtime(reasons)

        def opened(graph: str) -> TrtSession:
            spec = bundle.specs[graph]
            profile = PROFILES[spec.batch_axis]
            settings = EngineSettings(precision="fp32", profiles={graph: profile.lengths})
            file = bundle.path / bundle.entry(graph, "onnxruntime").file
            with cuda.current():
                plan = build_plan(trt, file.read_bytes(), spec, profile, settings).engine
            session = open_trt_session(trt, runtime, plan, spec, profile, cuda, reasons)
            return stack.enter_context(session)

        yield opened


def inputs_of(model: Model, graph: str, size: int, seed: int = 0) -> dict[str, Any]:
    return graph_inputs(model.bundle.specs[graph], size, seed)


def run_in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("graphs", [("fusion_head",) * 2, ("neighbor_encoder", "fusion_head")])
def test_second_batch_is_queued_while_another_thread_awaits_the_first(
    graphs: tuple[str, str], engine: Opened, model: Model, gpu: StandInGpu
) -> None:
    """A lock that is held while outputs are copied back would keep the second batch out."""
    batches = [inputs_of(model, graph, 3, seed) for seed, graph in enumerate(graphs)]
    sessions = share_gpu({graph: engine(graph) for graph in dict.fromkeys(graphs)})
    gpu.clear()
    gpu.pause()
    calls = []
    for number, (graph, inputs) in enumerate(zip(graphs, batches, strict=True), start=1):
        calls.append(run_in_thread(partial(sessions[graph].run, inputs)))
        gpu.await_log("queue compute", number)
    assert not [line for line in gpu.log if not line.startswith("queue")]
    gpu.resume()
    for (thread, results), graph, inputs in zip(calls, graphs, batches, strict=True):
        thread.join()
        for name, wanted in model.run(graph, inputs).items():
            np.testing.assert_allclose(results[0][name], wanted, atol=1e-5)
    streams = {record.stream for record in gpu.records if record.kind == "compute"}
    assert len(streams) == 2, "each batch has a stream of its own"


def test_tiles_are_uploaded_while_a_batch_is_computed(
    engine: Opened, model: Model, gpu: StandInGpu
) -> None:
    session = engine("target_encoder")
    tiles = [inputs_of(model, "target_encoder", 2, seed)["tiles"] for seed in range(3)]
    gpu.clear()
    gpu.pause()
    collect = session.submit({"tiles": tiles[0]})
    uploaded = [session.upload(array) for array in tiles[1:]]
    compute, *_ = [record.stream for record in gpu.records if record.kind == "compute"]
    copies = [record.stream for record in gpu.records if record.kind == "htod"]
    assert copies[0] == compute
    assert copies[1] == copies[2] != compute
    gpu.resume()
    collect()
    for array, wanted in zip(uploaded, tiles[1:], strict=True):
        np.testing.assert_array_equal(array.numpy(), wanted)  # type: ignore[union-attr]
    assert all(stream != -1 for stream in copies), "no copy stops the default stream"


def test_upload_waits_for_the_copy_that_reads_its_buffer(engine: Opened, gpu: StandInGpu) -> None:
    session = engine("fusion_head")
    tiles = [np.full((2, 224, 224, 3), value, np.uint8) for value in range(7)]
    gpu.slow_copies(2000)
    uploaded = [session.upload(array) for array in tiles]
    for array, wanted in zip(uploaded, tiles, strict=True):
        np.testing.assert_array_equal(array.numpy(), wanted)  # type: ignore[union-attr]


def test_threads_leave_nothing_on_the_gpu(engine: Opened, model: Model, gpu: StandInGpu) -> None:
    """pycuda frees nothing in a thread without a context, and warns; warnings are errors here."""
    session = engine("fusion_head")

    def work(seed: int) -> None:
        inputs = inputs_of(model, "fusion_head", 3, seed)
        kept = session.run_kept(inputs)
        session.run(inputs)
        session.upload(inputs["target_tokens"])
        del kept

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(9)))
    gc.collect()
    assert gpu.live_events < 20, "events are used again"
    survivor = session.run_kept(inputs_of(model, "fusion_head", 2))
    session.close()
    gc.collect()
    assert (gpu.live_streams, gpu.live_locked) == (0, 0)
    assert gpu.used_bytes > 0
    thread, _ = run_in_thread(survivor.clear)
    thread.join()
    gc.collect()
    assert (gpu.used_bytes, gpu.live_events) == (0, 0)


@pytest.mark.parametrize("code", [700, 719])
@pytest.mark.parametrize("kind", ["htod", "compute", "dtoh"])
def test_lost_context_is_told_from_other_errors_and_can_be_closed(
    kind: str, code: int, engine: Opened, model: Model, gpu: StandInGpu
) -> None:
    inputs = inputs_of(model, "fusion_head", 2)
    session = engine("fusion_head")
    gpu.lose_at(kind, code)
    for _ in range(2):
        with pytest.raises(LostDeviceError, match=r"NVIDIA Test 1: CUDA failed .* context is"):
            session.run(inputs)
    with pytest.raises(LostDeviceError):
        session.upload(np.zeros((1, 224, 224, 3), np.uint8))
    session.close()
    gc.collect()


def test_read_beyond_the_memory_loses_the_context(engine: Opened, model: Model) -> None:
    kept = engine("fusion_head").run_kept(inputs_of(model, "fusion_head", 2))["expression"]
    kept.pointer += 1 << 40
    with pytest.raises(LostDeviceError, match="illegal memory access"):
        kept.numpy()


def test_reasons_of_tensorrt_reach_the_message(
    engine: Opened, model: Model, trt: StandInTensorrt
) -> None:
    session, inputs = engine("fusion_head"), inputs_of(model, "fusion_head", 2)
    trt.run_errors = ["IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Parameter ..."]
    with pytest.raises(BackendError, match=r"did not start .*Error Code 3: API Usage.*doctor"):
        session.run(inputs)
    session.run(inputs)


def test_memory_that_tensorrt_misses_itself_halves_the_batch(
    engine: Opened, model: Model, trt: StandInTensorrt, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = inputs_of(model, "fusion_head", 8)
    trt.run_errors = ["[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)"]
    found = engine("fusion_head").run(inputs)["expression"]
    wanted = model.run("fusion_head", inputs)["expression"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "no memory for a batch of 8, going on with 4" in caplog.text


def test_full_page_locked_memory_is_an_error_of_memory(cuda: Cuda, gpu: StandInGpu) -> None:
    with cuda.current():
        gpu.fail_allocations(1)
        with pytest.raises(DeviceMemoryError, match="page-locked"):
            cuda.page_locked(100)


def test_pool_tries_again_with_what_it_can_free(cuda: Cuda, gpu: StandInGpu) -> None:
    gpu.set_total(3000)
    pool = MemoryPool(cuda)
    with cuda.current():
        memory = pool.take(1200)
        del memory
        larger = pool.take(2000)
        with pytest.raises(DeviceMemoryError, match="no 0 MB left"):
            pool.take(2000)
        del larger
        pool.close()
    assert gpu.used_bytes == 0


def test_stand_in_is_not_taken_for_the_driver_of_a_gpu(gpu: StandInGpu) -> None:
    """Otherwise later tests of this process would find a GPU."""
    loaded = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "stand-in" in line
    ]
    assert loaded
    if not shutil.which("nvidia-smi"):
        assert cuda_device_count() == 0
