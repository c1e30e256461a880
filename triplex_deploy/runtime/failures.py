"""Turn the errors of a runtime into errors of this package, with the remedy that fits."""

from __future__ import annotations

from typing import Final

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.session import DeviceMemoryError

_MEMORY_WORDS: Final = (
    "out of memory",
    "failed to allocate",
    "cuda error 2",
    "bad_alloc",
    "not enough memory",
)


def failed_call(graph: str, runtime: str, error: Exception) -> BackendError:
    """Return the error to raise where a runtime failed to run a graph.

    Args:
        graph: Name of the graph.
        runtime: Name of the runtime, such as ``ONNX Runtime``.
        error: What it raised.

    Returns:
        A ``DeviceMemoryError`` if it is about memory.
    """
    text = first_line(error)
    if any(word in text.lower() for word in _MEMORY_WORDS):
        return DeviceMemoryError(
            f"{graph}: {runtime} failed ({text}); lower --batch-size, or free memory"
        )
    return BackendError(
        f"{graph}: {runtime} failed ({text}); the bundle's graphs and settings may not belong "
        "together: check them with triplex-deploy verify"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
