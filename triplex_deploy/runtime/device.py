"""Read the name of a device: ``auto``, ``cpu`` or ``cuda:N``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from triplex_deploy.errors import BackendError


@dataclass(frozen=True)
class Device:
    """A device that a session runs on."""

    kind: str
    """``cpu`` or ``cuda``."""
    index: int = 0
    """Number of the GPU; 0 for the CPU."""

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def parse_device(text: str) -> Device | None:
    """Return the device with this name, or None for ``auto``.

    Raises:
        BackendError: If the name is not known.
    """
    if text == "auto":
        return None
    if text == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d+))?", text)
    if match is None:
        raise BackendError(f"device {text!r}: not known; use auto, cpu or cuda:N")
    return Device("cuda", int(match[1] or 0))
