"""The stages a query is split into, and why one may be absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

from numpy.typing import NDArray

from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays

STAGES: Final[tuple[str, ...]] = (
    "queue",
    "decode",
    "prepare",
    "gather",
    "host_to_device",
    "compute",
    "device_to_host",
    "write",
)
"""In the order a query passes them; what lies between them is ``other``."""
OTHER: Final = "other"
COPIES: Final = ("host_to_device", "device_to_host")

Seconds = Mapping[str, float]


@runtime_checkable
class StagedSession(Protocol):
    """A session that can tell copies from computing."""

    def run_staged(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Seconds]:
        """As ``run``, with the seconds of host_to_device, compute and device_to_host."""
        ...


def copies_absent(model: Model) -> dict[str, str]:
    """Why copies cannot be told apart on this backend; empty where they can."""
    if any(isinstance(session, StagedSession) for session in model.sessions.values()):
        return {}
    if model.device.kind == "cpu":
        return dict.fromkeys(COPIES, "the CPU computes where the arrays are")
    return dict.fromkeys(COPIES, f"{model.backend} copies within its call, counted as compute")


def transfers_note(model: Model) -> str:
    """Whether a latency includes copies to and from the device."""
    return "none: host memory" if model.device.kind == "cpu" else "included in every latency"
