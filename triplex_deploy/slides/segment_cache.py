"""Cache recently decoded strips or tiles of a TIFF, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

LARGE_BYTES = 64 << 20
"""Larger segments are decoded by one thread at a time, so that none is decoded twice."""


class SegmentCache:
    """Keeps the most recently used segments: up to ``budget_bytes``, but at least one."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._segments: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._large = threading.Lock()

    def get(
        self, key: Hashable, size_bytes: int, decode: Callable[[], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Return the segment of ``key``; it is decoded if the cache lacks it. Do not change it."""
        held = self._find(key)
        if held is not None:
            return held
        if size_bytes <= LARGE_BYTES:
            return self._keep(key, decode())
        with self._large:
            held = self._find(key)
            return self._keep(key, decode()) if held is None else held

    def clear(self) -> None:
        """Drop all segments."""
        with self._lock:
            self._segments.clear()
            self._bytes = 0

    def _find(self, key: Hashable) -> NDArray[np.uint8] | None:
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def _keep(self, key: Hashable, segment: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with self._lock:
            if key not in self._segments:
                self._segments[key] = segment
                self._bytes += segment.nbytes
            while self._bytes > self._budget_bytes and len(self._segments) > 1:
                self._bytes -= self._segments.popitem(last=False)[1].nbytes
        return segment
