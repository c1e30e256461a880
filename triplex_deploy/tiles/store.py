"""Memory for decoded segments, reused as they come and go."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.tiles.reading import Schedule


class SegmentStore:
    """Slots for the items of a schedule; used by one thread, but for the pixels themselves.

    Memory is only taken from the system as slots are first written.
    """

    def __init__(self, schedule: Schedule, n_slots: int, segment_wh: tuple[int, int]) -> None:
        width, height = segment_wh
        self.schedule = schedule
        self.pixels = np.empty((n_slots, height, width, 3), np.uint8)
        # One place more than items, so that item -1, which is none, has slot -1.
        self._slot_of_item = np.full(len(schedule.segment) + 1, -1, np.int64)
        self._free = list(range(n_slots))[::-1]
        self._by_end = np.argsort(schedule.last_step, kind="stable")
        self._ends = schedule.last_step[self._by_end]
        self._released = 0

    def start(self, step: int) -> range:
        """Give a slot to each item first needed in this step."""
        items = self.schedule.starting(step)
        for item in items:
            self._slot_of_item[item] = self._free.pop()
        return items

    def finish(self, step: int) -> None:
        """Take back the slots of all items whose last step this was, or came before."""
        end = int(np.searchsorted(self._ends, step, side="right"))
        self._free.extend(self._slot_of_item[self._by_end[self._released : end]].tolist())
        self._released = end

    def slots(self, items: range) -> list[int]:
        slots: list[int] = self._slot_of_item[items.start : items.stop].tolist()
        return slots

    def slots_of_uses(self, uses: slice) -> NDArray[np.int64]:
        """Slots (n, rows, columns) under the given uses, -1 for none."""
        return self._slot_of_item[self.schedule.item_of_use[uses]]


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
