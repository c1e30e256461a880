"""Find out what the CPU multiplies in hardware, and which GPU software works or is missing."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract.precision import PRECISIONS, cpu_flag
from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command, install_package
from triplex_deploy.runtime.backends import OPENVINO
from triplex_deploy.runtime.cpu_choice import ISA_LIMIT, has_fast_bf16
from triplex_deploy.runtime.instructions import instructions_for, known_instructions
from triplex_deploy.runtime.ort_load import import_onnxruntime, preload_cuda
from triplex_deploy.runtime.tensorrt.cuda import import_pycuda
from triplex_deploy.runtime.tensorrt.session import import_tensorrt
from triplex_deploy.system import installed_version, processor_flags, processor_name

CUDA_PROVIDER: Final = "libonnxruntime_providers_cuda.so"
"""The library with which ONNX Runtime uses CUDA."""
CUDNN: Final = "libcudnn.so.9"
"""A library that the CUDA provider opens when a session needs it, not when it is loaded."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked."""
    ok: bool | None
    """True if it works, False if it is a fault, None if it is missing and need not be there."""
    detail: str
    """What was found, and what to do if it does not work."""


@dataclass(frozen=True)
class GpuDiagnosis:
    """Checks driver, libraries and packages; the fields are replaced in tests."""

    load: Callable[[str], Any] = ctypes.CDLL
    """Opens a library by its name, or raises ``OSError``."""
    version_of: Callable[[str], str | None] = installed_version
    """Returns the version of a package, None if it is not installed."""
    import_tensorrt: Callable[[], Any] = import_tensorrt
    """Imports TensorRT, or raises ``BackendError``."""
    import_pycuda: Callable[[], Any] = import_pycuda
    """Imports pycuda, or raises ``BackendError``."""
    preload: Callable[[], None] = lambda: preload_cuda(import_onnxruntime())
    """Loads the CUDA libraries that pip installed."""
    provider: Path | None = field(default_factory=lambda: cuda_provider())
    """Path of the CUDA provider, None if this onnxruntime has none."""

    def findings(self) -> list[Finding]:
        """Run every check, and return the results in the order to show them."""
        driver, has_gpu = self._driver()
        return [driver, self._packages(), self._onnxruntime(has_gpu), *self._tensorrt(has_gpu)]

    def _driver(self) -> tuple[Finding, bool]:
        name = "GPU driver"
        try:
            driver = self.load("libcuda.so.1")
        except OSError:
            text = "none, predictions run on the CPU; to use a GPU, install NVIDIA's driver"
            return Finding(name, None, text), False
        number, count = ctypes.c_int(0), ctypes.c_int(0)
        status = driver.cuInit(0)
        if status:
            text = (
                f"installed, but it does not start (CUDA error {status}); "
                "run `nvidia-smi`, and restart after a driver update"
            )
            return Finding(name, False, text), False
        driver.cuDriverGetVersion(ctypes.byref(number))
        driver.cuDeviceGetCount(ctypes.byref(count))
        major, minor = number.value // 1000, number.value % 1000 // 10
        text = f"runs CUDA up to {major}.{minor}, {count.value} GPU(s)"
        needed = self._cuda_major()
        if count.value == 0:
            return Finding(name, None, f"{text}; check CUDA_VISIBLE_DEVICES"), False
        if needed is not None and major < needed:
            text = (
                f"{text}, but the installed libraries are for CUDA {needed}; "
                f"update the driver, or install their CUDA {major} builds"
            )
            return Finding(name, False, text), True
        return Finding(name, True, text), True

    def _cuda_major(self) -> int | None:
        """Return the major version of CUDA that the installed TensorRT was built for."""
        for major in (13, 12):
            if self.version_of(f"tensorrt-cu{major}"):
                return major
        return None

    def _packages(self) -> Finding:
        cpu, gpu = self.version_of("onnxruntime"), self.version_of("onnxruntime-gpu")
        name = "onnxruntime for"
        if cpu and gpu:
            text = (
                f"both onnxruntime {cpu} and onnxruntime-gpu {gpu} are installed and overwrite "
                "each other; run `pip uninstall -y onnxruntime onnxruntime-gpu` and then "
                f"`{install_command('gpu')}`, or [cpu]"
            )
            return Finding(name, False, text)
        if gpu:
            return Finding(name, True, f"CPU and CUDA (onnxruntime-gpu {gpu})")
        return Finding(name, None, f"CPU; `{install_command('gpu')}` brings CUDA")

    def _onnxruntime(self, has_gpu: bool) -> Finding:
        """Check that the CUDA provider loads; otherwise ONNX Runtime could only use the CPU."""
        name = "CUDA in onnxruntime"
        if self.provider is None:
            remedy = "install 'triplex-deploy[gpu]' in place of [cpu]" if has_gpu else "no GPU"
            return Finding(name, None, f"not in this onnxruntime; {remedy}")
        self.preload()
        for library in (CUDNN, str(self.provider)):
            try:
                self.load(library)
            except OSError as error:
                if "undefined symbol" in str(error):  # onnxruntime itself has the symbol
                    continue
                return Finding(name, False if has_gpu else None, _missing_library(str(error)))
        return Finding(name, True, "its libraries load")

    def _tensorrt(self, has_gpu: bool) -> list[Finding]:
        found = []
        for name, load in (("TensorRT", self.import_tensorrt), ("pycuda", self.import_pycuda)):
            try:
                module = load()
            except BackendError as error:
                installed = self.version_of(name.lower())
                text = str(error) if installed or has_gpu else "not installed; no GPU to use it"
                found.append(Finding(name, False if installed and has_gpu else None, text))
            else:
                found.append(Finding(name, True, _version_text(module, self.version_of(name))))
        return found


def cpu_findings() -> list[Finding]:
    """Return what this CPU multiplies in hardware, and which command makes use of it."""
    flags = processor_flags()
    if not flags:
        text = "unknown: this system does not list them, or it is no x86 processor"
        return [Finding("CPU instructions", None, text)]
    known = ", ".join(known_instructions(flags)) or "none for wide vectors"
    return [
        Finding("CPU instructions", True, f"{known} ({processor_name()})"),
        Finding("CPU fp32", True, f"{_by('fp32')}: `predict`, as it is without options"),
        _bf16(),
        _int8(),
    ]


def _bf16() -> Finding:
    name = "CPU bf16"
    flag = instructions_for("bf16")
    if flag is None or not has_fast_bf16():
        needed = " or ".join(PRECISIONS["bf16"].cpu_flags)
        limit = f"; {ISA_LIMIT} limits OpenVINO" if flag else ""
        text = (
            f"not in hardware (that needs {needed}){limit}: `predict --precision bf16` is refused"
        )
        return Finding(name, None, text)
    text = f"by {flag}: `predict --precision bf16` runs an fp32 bundle in it, and `prepare` too"
    if not OPENVINO.is_installed:
        return Finding(name, None, f"{text}, after `{install_command('cpu')}`")
    return Finding(name, True, text)


def _int8() -> Finding:
    command = "`export --precision int8 --calibration SLIDE` makes a bundle for `predict`"
    if cpu_flag("int8", processor_flags()):
        return Finding("CPU int8", True, f"{_by('int8')}: {command}")
    text = f"{_by('int8')}, without VNNI: {command}; add `--int8-weights 7`, as sums of 8 overflow"
    return Finding("CPU int8", True, text)


def _by(precision: str) -> str:
    flag = instructions_for(precision)
    return f"by {flag}" if flag else "without wide vectors, slow"


def cuda_provider() -> Path | None:
    """Return the path of ONNX Runtime's CUDA provider, None if this build has none."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "capi" / CUDA_PROVIDER
    return path if path.exists() else None


def _missing_library(error: str) -> str:
    library = error.partition(":")[0].strip()
    return (
        f"{library} is missing, so --device cuda would fail; run "
        f"`{install_package('onnxruntime-gpu[cuda,cudnn]')}`, or add its folder to LD_LIBRARY_PATH"
    )


def _version_text(module: Any, installed: str | None) -> str:
    return str(getattr(module, "__version__", None) or installed or "loads")
