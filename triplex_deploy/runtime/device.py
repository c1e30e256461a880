"""Read the name of a device: ``auto``, ``cpu`` or ``cuda:N``; or of several GPUs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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
ALL_GPUS: Final = "cuda:all"
"""Names every GPU of a machine, or of a Ray cluster."""


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


def names_several(text: str) -> bool:
    """Return True for ``cuda:all`` and for a list of devices."""
    return text == ALL_GPUS or "," in text


def each_device(text: str, count_gpus: Callable[[], int]) -> tuple[str, ...]:
    """Return the devices that ``text`` names, one for each worker.

    Args:
        text: ``cuda:all``, GPUs separated by commas such as ``cuda:0,cuda:2``, or one device,
            which is returned as it is.
        count_gpus: Returns the number of GPUs of this machine.

    Raises:
        BackendError: If the list has another device than a GPU, has one twice, or if there is no
            GPU.
    """
    if text == ALL_GPUS:
        n_gpus = count_gpus()
        if not n_gpus:
            raise BackendError(
                f"device {text}: no GPU is found; run `triplex-deploy doctor`, or pass --device cpu"
            )
        return tuple(f"cuda:{index}" for index in range(n_gpus))
    if "," not in text:
        return (text,)
    devices = [parse_device(name.strip()) for name in text.split(",")]
    if any(device is None or device == CPU for device in devices):
        raise BackendError(f"device {text!r}: a list names GPUs alone; use cuda:0,cuda:1")
    names = tuple(str(device) for device in devices)
    if len(set(names)) < len(names):
        raise BackendError(f"device {text!r}: names a GPU twice; name each once")
    return names
