"""Doctor on machines with and without a GPU, a driver, and the right libraries."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.diagnosis import Finding, GpuDiagnosis


class Driver:
    def __init__(self, cuda: int = 13000, gpus: int = 1, init: int = 0) -> None:
        self.cuda, self.gpus, self.init = cuda, gpus, init

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.init

    def cuDriverGetVersion(self, into: Any) -> int:  # noqa: N802
        ctypes.cast(into, ctypes.POINTER(ctypes.c_int))[0] = self.cuda
        return 0

    def cuDeviceGetCount(self, into: Any) -> int:  # noqa: N802
        ctypes.cast(into, ctypes.POINTER(ctypes.c_int))[0] = self.gpus
        return 0


def diagnose(
    driver: Driver | None = None,
    missing: str | None = None,
    packages: dict[str, str] | None = None,
    tensorrt: str | None = None,
    provider: Path | None = Path("providers_cuda.so"),
) -> dict[str, Finding]:
    def load(name: str) -> Any:
        if name == "libcuda.so.1":
            if driver is None:
                raise OSError("libcuda.so.1: cannot open shared object file")
            return driver
        if missing is not None:
            raise OSError(f"{missing}: cannot open shared object file: No such file")
        return object()

    def import_tensorrt() -> Any:
        if tensorrt is None:
            raise BackendError("TensorRT cannot be used: it cannot be loaded; run `pip install`")
        return SimpleNamespace(__version__=tensorrt)

    diagnosis = GpuDiagnosis(
        load=load,
        version_of=(packages or {}).get,
        import_tensorrt=import_tensorrt,
        import_pycuda=import_tensorrt,
        preload=lambda: None,
        provider=provider,
    )
    return {finding.name: finding for finding in diagnosis.findings()}


def test_machine_without_gpu_has_no_fault() -> None:
    found = diagnose(packages={"onnxruntime": "1.32"}, provider=None)
    assert all(finding.ok is None for finding in found.values())
    assert "predictions run on the CPU" in found["GPU driver"].detail


def test_gpu_with_everything_is_ok() -> None:
    packages = {"onnxruntime-gpu": "1.31.1", "tensorrt-cu13": "11.4", "tensorrt": "11.4"}
    found = diagnose(Driver(), packages=packages, tensorrt="11.4.0.106")
    assert all(finding.ok for finding in found.values()), found
    assert found["GPU driver"].detail == "runs CUDA up to 13.0, 1 GPU(s)"
    assert found["TensorRT"].detail == "11.4.0.106"


def test_provider_that_would_fall_back_is_a_fault_with_its_remedy() -> None:
    found = diagnose(Driver(), missing="libcudnn.so.9")["CUDA in onnxruntime"]
    assert found.ok is False
    assert "libcudnn.so.9 is missing, so --device cuda would fail" in found.detail
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'`" in found.detail


def test_symbols_of_onnxruntime_itself_are_not_missing_libraries() -> None:
    """The test loads only the provider, without the library that calls it."""
    found = diagnose(Driver(), missing="providers_cuda.so: undefined symbol: Provider_GetHost")
    assert found["CUDA in onnxruntime"].ok is True


def test_driver_older_than_the_libraries_is_a_fault() -> None:
    found = diagnose(Driver(cuda=12080), packages={"tensorrt-cu13": "11.4"})["GPU driver"]
    assert found.ok is False
    assert "CUDA up to 12.8" in found.detail
    assert "for CUDA 13; update the driver, or install their CUDA 12 builds" in found.detail


def test_driver_that_does_not_start_is_a_fault() -> None:
    found = diagnose(Driver(init=803))["GPU driver"]
    assert found.ok is False
    assert "CUDA error 803" in found.detail
    assert "nvidia-smi" in found.detail


def test_hidden_gpus_are_named() -> None:
    found = diagnose(Driver(gpus=0))["GPU driver"]
    assert (found.ok, "CUDA_VISIBLE_DEVICES" in found.detail) == (None, True)


def test_two_onnxruntimes_are_a_fault() -> None:
    packages = {"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"}
    found = diagnose(packages=packages)["onnxruntime for"]
    assert found.ok is False
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found.detail


@pytest.mark.parametrize(("installed", "ok"), [({}, None), ({"tensorrt": "11.4"}, False)])
def test_tensorrt_that_does_not_load_is_a_fault_only_if_installed(
    installed: dict[str, str], ok: bool | None
) -> None:
    assert diagnose(Driver(), packages=installed)["TensorRT"].ok is ok


def test_without_a_gpu_tensorrt_is_one_short_line() -> None:
    found = diagnose()
    assert {found[name].detail for name in ("TensorRT", "pycuda")} == {
        "not installed; no GPU to use it"
    }


def test_this_machine_can_be_diagnosed() -> None:
    names = [finding.name for finding in GpuDiagnosis().findings()]
    assert names == [
        "GPU driver",
        "onnxruntime for",
        "CUDA in onnxruntime",
        "TensorRT",
        "pycuda",
    ]
