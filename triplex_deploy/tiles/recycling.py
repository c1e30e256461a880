"""Batches' memory, used again once the consumer has let go of it."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

_REFERENCES_OF_OURS = 2
"""The list's own, and the argument of ``sys.getrefcount``."""


class BufferPool:
    """Arrays of one shape; an array that nobody else refers to is handed out again.

    Fresh memory has to be cleared by the system page by page, which costs as much as filling it.
    Views keep their array alive, so whatever the consumer still holds is never written again.
    """

    def __init__(self, shape: tuple[int, ...], keep: int) -> None:
        self._shape = shape
        self._keep = keep
        self._buffers: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, length: int) -> NDArray[np.uint8]:
        """An array, or a part of one, of ``length`` along the first axis; its content is old."""
        with self._lock:
            for index in range(len(self._buffers)):
                if sys.getrefcount(self._buffers[index]) == _REFERENCES_OF_OURS:
                    return self._buffers[index][:length]
            buffer = np.empty(self._shape, np.uint8)
            if len(self._buffers) < self._keep:
                self._buffers.append(buffer)
            return buffer[:length]
