"""Turn the errors of a runtime into errors of this package, with the remedy that fits."""

from __future__ import annotations

import re
from typing import Final

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.session import DeviceMemoryError, LostDeviceError

_MEMORY: Final = re.compile(
    r"out of memory|outofmemory|bad_alloc|failed to allocate|not enough memory|"
    r"insufficient memory|memory allocation|could not be allocated|alloc(ation)?_failed|"
    r"is smaller than requested bytes|cuda (error|failure)[ :]*2\b",
    re.IGNORECASE,
)
"""Texts of ONNX Runtime and its arena with a limit, CUDA, cuDNN, cuBLAS and TensorRT."""
_PLACE: Final = re.compile(r"^Exception from \S+:\d+:$| failed at \S+:\d+:$|^FrontEnd API failed")
"""Lines of OpenVINO's errors that are not the reason."""
_LOST: Final = re.compile(
    r"illegal memory access|illegal instruction|illegaladdress|unspecified launch failure|"
    r"launchfailure|launch timed out|device-side assert|uncorrectable ecc|misaligned address|"
    r"invalid program counter|hardware stack error|context is destroyed|fallen off the bus|"
    r"\bxid\b|cuda (error|failure)[ :]*(214|700|702|709|71[0-9]|999)\b",
    re.IGNORECASE,
)
"""Errors after which CUDA refuses every call of the process."""
_NO_CODE: Final = re.compile(r"no kernel image|cuda (error|failure)[ :]*209\b", re.IGNORECASE)
_REMEDY: Final = (
    "the bundle's graphs and settings may not belong together: check them with "
    "triplex-deploy verify"
)


def is_about_memory(text: str) -> bool:
    """Return whether the text of an error says that memory ran out."""
    return _MEMORY.search(text) is not None


def is_lost_device(text: str) -> bool:
    """Return whether the text of an error says that the GPU's context is lost."""
    return _LOST.search(text) is not None


def failed_call(graph: str, runtime: str, error: Exception) -> BackendError:
    """Return the error to raise where a runtime failed to run a graph.

    Args:
        graph: Name of the graph.
        runtime: Name of the runtime, such as ``ONNX Runtime``.
        error: What it raised.

    Returns:
        A ``DeviceMemoryError`` if it is about memory, a ``LostDeviceError`` if the GPU's context
        is lost.
    """
    return failure(f"{graph}: {runtime} failed", reason_of(error))


def failure(what: str, text: str, remedy: str = _REMEDY) -> BackendError:
    """Return the error to raise for a failure.

    Args:
        what: What failed, such as ``tile_encoder: ONNX Runtime failed``.
        text: The reason, in the words of the runtime or the driver.
        remedy: What to do about a reason that is not known.

    Returns:
        A ``DeviceMemoryError`` if it is about memory, a ``LostDeviceError`` if the GPU's context
        is lost.
    """
    if is_about_memory(text):
        return DeviceMemoryError(f"{what} ({text}); lower --batch-size, or free memory")
    if is_lost_device(text):
        return LostDeviceError(
            f"{what} ({text}); the GPU's context is lost: run the command again, which keeps "
            "complete slides, and look for Xid in the output of `dmesg`"
        )
    if _NO_CODE.search(text):
        return BackendError(
            f"{what} ({text}); its build has no code for this GPU: install a version that "
            "supports it, or use --backend tensorrt"
        )
    return BackendError(f"{what} ({text}); {remedy}")


def reason_of(error: Exception) -> str:
    """Return the line of an error's message that says the reason.

    It is the first one, but OpenVINO writes lines before it that only name places in its sources.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not _PLACE.search(line)), lines[0] if lines else "")
