"""Device names as users type them: ``auto``, ``cpu`` or ``cuda:N``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from triplex_deploy.errors import BackendError


@dataclass(frozen=True)
class Device:
    """A device a session runs on; ``index`` is the GPU's number and 0 for the CPU."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def parse_device(text: str) -> Device | None:
    """The named device, or None for ``auto``; raises ``BackendError`` on anything else."""
    if text == "auto":
        return None
    if text == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d+))?", text)
    if match is None:
        raise BackendError(f"device {text!r}: not known; use auto, cpu or cuda:N")
    return Device("cuda", int(match[1] or 0))
