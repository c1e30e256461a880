"""Which backend and device are chosen, and what a new runtime has to declare."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from triplex_deploy.bundle import Bundle, Target
from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime import backends, ort_load
from triplex_deploy.runtime.backends import (
    BACKEND_NAMES,
    BACKENDS,
    ONNXRUNTIME,
    TENSORRT,
    Backend,
    OpenOptions,
    choose,
)
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.first_use import InaccurateError
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.session import Arrays, Session

GPU = Device("cuda", 0)


class OnesSession(Session):
    """Stands in for a graph: every output is filled with ones."""

    def _run(self, inputs: Tensors) -> Arrays:
        length = inputs[self.spec.inputs[0].name].shape[0]
        return {
            tensor.name: np.ones([length, *cast(tuple[int, ...], tensor.axes[1:])], tensor.dtype)
            for tensor in self.spec.outputs
        }

    def close(self) -> None:
        pass


def _open_toy(
    bundle: Bundle, device: Device, options: OpenOptions, stack: ExitStack
) -> dict[str, Session]:
    def opened(spec: GraphSpec) -> Session:
        return stack.enter_context(OnesSession(spec))

    return {name: opened(spec) for name, spec in bundle.specs.items()}


TOY = Backend(
    name="toy",
    target="onnxruntime",
    devices=("cpu",),
    modules=("json",),
    open=_open_toy,
    has_gpu=lambda: False,
)


@pytest.fixture
def both_targets(bundle: RunnableBundle) -> Bundle:
    """A bundle with graphs for ONNX Runtime and TensorRT."""
    entries = [
        entry.model_copy(update={"target": target})
        for entry in bundle.manifest.graphs
        for target in ("onnxruntime", "tensorrt")
    ]
    manifest = bundle.manifest.model_copy(update={"graphs": tuple(entries)})
    return Bundle(bundle.path, manifest, bundle.config)


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda module: object())


@pytest.mark.usefixtures("all_installed")
def test_auto_prefers_tensorrt_on_a_gpu(both_targets: Bundle) -> None:
    assert choose(both_targets, "auto", GPU) == (TENSORRT, GPU)
    assert choose(both_targets, "auto", CPU) == (None, CPU)  # a measurement decides


@pytest.mark.usefixtures("all_installed")
def test_auto_needs_graphs_for_tensorrt(bundle: RunnableBundle) -> None:
    assert choose(bundle, "auto", GPU) == (ONNXRUNTIME, GPU)


def test_auto_needs_the_packages_of_tensorrt(
    both_targets: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda module: module != "pycuda" or None)
    assert choose(both_targets, "auto", GPU) == (ONNXRUNTIME, GPU)


@pytest.mark.parametrize(("gpus", "device"), [(0, CPU), (2, GPU)])
def test_auto_device_is_the_first_gpu_that_the_backend_can_use(
    gpus: int, device: Device, both_targets: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.runtime.ort_load.cuda_usable", lambda: gpus > 0)
    monkeypatch.setattr(backends, "find_spec", lambda module: module == "onnxruntime" or None)
    assert choose(both_targets, "onnxruntime", None) == (ONNXRUNTIME, device)
    auto = ONNXRUNTIME if gpus else None
    assert choose(both_targets, "auto", None) == (auto, device)


def test_backend_that_does_not_run_on_the_device_is_refused(both_targets: Bundle) -> None:
    with pytest.raises(BackendError, match="device cpu: tensorrt does not run on it"):
        choose(both_targets, "tensorrt", CPU)


def test_importing_the_declarations_loads_no_runtime() -> None:
    import subprocess
    import sys

    code = (
        "import sys, triplex_deploy.runtime.backends as b; print(b.BACKEND_NAMES);"
        "assert not {'onnxruntime', 'tensorrt', 'pycuda', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(BACKEND_NAMES)


def test_a_runtime_is_one_declaration(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(BACKENDS, "toy", TOY)
    with pytest.raises(InaccurateError, match="toy on this CPU differs too much from PyTorch"):
        bundle.open(backend="toy")
    with bundle.open() as model:
        assert model.backend != "toy", "the fastest, but it is wrong"
    assert re.search(r"toy on this CPU differs too much .*; using \w+$", caplog.text, re.M)
    monkeypatch.setattr("triplex_deploy.runtime.model.require_accurate", lambda *_: None)
    inputs: dict[str, Any] = {"tiles": np.zeros((2, 224, 224, 3), np.uint8)}
    with bundle.open(backend="toy") as model:
        assert (model.backend, model.device) == ("toy", CPU)
        assert np.all(model.run("tile_encoder", inputs)["features"] == 1)
        assert model.entry("tile_encoder").target == TOY.target
        assert model.concurrent_sessions() is model.sessions
    with pytest.raises(BackendError, match="device cuda:0: toy does not run on it"):
        bundle.open(device="cuda:0", backend="toy")


def test_every_backend_takes_graphs_that_an_export_writes() -> None:
    targets: set[Target] = {"onnxruntime", "tensorrt"}
    for name, backend in BACKENDS.items():
        assert backend.name == name
        assert backend.target in targets
        assert set(backend.devices) <= {"cpu", "cuda"}


@pytest.mark.parametrize("listed", ["GPU 0: NVIDIA H100 (UUID: GPU-1)", "No devices were found"])
def test_gpu_that_the_cpu_build_leaves_idle_is_named_on_the_screen(
    listed: str,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The screen shows warnings; the driver of the machine may be hidden from this process."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{listed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(ort_load, "cuda_device_count", lambda: 0)
    for device, backend in ((None, "auto"), (None, "onnxruntime"), (CPU, "auto")):
        caplog.clear()
        _, chosen = choose(model.bundle, backend, device)
        assert chosen == CPU
        warnings = [record for record in caplog.records if "device auto: the CPU" in record.message]
        wanted = device is None and listed.startswith("GPU")
        assert [record.levelname for record in warnings] == ["WARNING"] * wanted


def test_int8_graphs_for_cpus_are_refused_on_a_gpu(bundle: RunnableBundle) -> None:
    graphs = tuple(
        entry.model_copy(update={"precision": "int8"}) if entry.name == "tile_encoder" else entry
        for entry in bundle.manifest.graphs
    )
    manifest = bundle.manifest.model_copy(update={"graphs": graphs})
    quantized = RunnableBundle(bundle.path, manifest, bundle.config)
    with (
        ExitStack() as stack,
        pytest.raises(BackendError, match=r"are for CPUs.*--format tensorrt --precision int8"),
    ):
        ONNXRUNTIME.open(quantized, GPU, OpenOptions(), stack)
