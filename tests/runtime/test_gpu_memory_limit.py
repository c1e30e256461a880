"""``--gpu-memory-gb`` bounds what the sessions of a GPU take together; on the stand-ins."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime.backends import OpenOptions
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort_load import Tuning, cuda_options
from triplex_deploy.runtime.session import DeviceMemoryError
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget, MemoryPool


def test_pools_share_one_limit(cuda: Cuda, gpu: StandInGpu) -> None:
    budget = MemoryBudget(3000)
    first, second = MemoryPool(cuda, budget), MemoryPool(cuda, budget)
    with cuda.current():
        held = first.take(2000)
        with pytest.raises(DeviceMemoryError, match="--gpu-memory-gb; raise it"):
            second.take(2000)
        del held
        second.take(2000)  # what the first pool keeps idle is freed for it
        assert gpu.used_bytes < 3000
        first.close()
        second.close()
    assert gpu.used_bytes == 0


def test_refused_allocations_do_not_count(cuda: Cuda, gpu: StandInGpu) -> None:
    budget = MemoryBudget(3000)
    pool = MemoryPool(cuda, budget)
    with cuda.current():
        gpu.fail_allocations(2)
        with pytest.raises(DeviceMemoryError, match="MB left"):
            pool.take(2000)
        memory = pool.take(2000)
        del memory
        pool.close()
    assert budget.take(3000)


@pytest.mark.usefixtures("installed")
def test_batches_beyond_the_limit_are_divided(
    engine_bundle: RunnableBundle,
    model: Model,
    gpu: StandInGpu,
    trt: StandInTensorrt,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trt.scratch_bytes = 1 << 20
    inputs = graph_inputs(engine_bundle.specs["neighbor_encoder"], 8)
    wanted = model.run("neighbor_encoder", inputs)
    with engine_bundle.open("cuda:0", "tensorrt", gpu_memory_gb=7 * 2**20 / 1e9) as engines:
        with caplog.at_level(logging.WARNING):
            found = engines.run("neighbor_encoder", inputs)
        assert gpu.used_bytes <= 7 << 20
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    assert "a batch of 8, going on with 4" in caplog.text


def test_onnxruntime_gives_each_graph_its_part() -> None:
    options = cuda_options(Device("cuda"), Tuning(arena_bytes=2_000_000_000))
    assert options["gpu_mem_limit"] == "2000000000"
    assert "gpu_mem_limit" not in cuda_options(Device("cuda"), Tuning())


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_size_is_refused(engine_bundle: RunnableBundle, limit: float) -> None:
    with pytest.raises(BackendError, match="gpu_memory_gb"):
        engine_bundle.open(gpu_memory_gb=limit)


def test_the_limit_is_in_bytes() -> None:
    assert OpenOptions().gpu_memory_bytes is None
    assert replace(OpenOptions(), gpu_memory_gb=1.5).gpu_memory_bytes == 1_500_000_000
