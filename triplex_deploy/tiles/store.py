"""Reuse the memory of decoded segments and of cropped tiles."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.tiles.reading import Schedule


class SegmentStore:
    """Gives each item of a schedule a slot of memory while it is needed.

    One thread calls the methods; any thread may read and write ``pixels``. The system provides a
    slot's memory when it is first written.
    """

    pixels: NDArray[np.uint8]
    """(n_slots, height, width, 3) RGB."""

    def __init__(self, schedule: Schedule, n_slots: int, segment_wh: tuple[int, int]) -> None:
        width, height = segment_wh
        self.schedule = schedule
        self.pixels = np.empty((n_slots, height, width, 3), np.uint8)
        # One more place than items, so that item -1 (none) has slot -1.
        self._slot_of_item = np.full(len(schedule.segment) + 1, -1, np.int64)
        self._free = list(range(n_slots))[::-1]
        self._by_end = np.argsort(schedule.last_step, kind="stable")
        self._ends = schedule.last_step[self._by_end]
        self._released = 0

    def start(self, step: int) -> range:
        """Give a slot to each item first needed in this step, and return the items."""
        items = self.schedule.starting(step)
        for item in items:
            self._slot_of_item[item] = self._free.pop()
        return items

    def finish(self, step: int) -> None:
        """Free the slots of all items last needed in this step or before."""
        end = int(np.searchsorted(self._ends, step, side="right"))
        self._free.extend(self._slot_of_item[self._by_end[self._released : end]].tolist())
        self._released = end

    def slots(self, items: range) -> list[int]:
        """Return the slots of the items."""
        slots: list[int] = self._slot_of_item[items.start : items.stop].tolist()
        return slots

    def slots_of_uses(self, uses: slice) -> NDArray[np.int64]:
        """Return the slots (n, rows, columns) under the given uses, -1 for none."""
        return self._slot_of_item[self.schedule.item_of_use[uses]]


class BufferPool:
    """Lends arrays of one shape and takes their memory back when the borrower drops them.

    Fresh memory is cleared by the system page by page, which costs as much as filling it, so up to
    ``keep`` free buffers are kept. Each loan is an array of its own over the buffer; its views keep
    it alive, so memory that is still in use is never lent again.
    """

    def __init__(self, shape: tuple[int, ...], keep: int) -> None:
        self._shape = shape
        # A deque, since a loan may end in any thread: append and pop are atomic.
        self._free: deque[memoryview] = deque(maxlen=keep)

    def take(self, length: int) -> NDArray[np.uint8]:
        """Return an array with ``length`` rows of undefined content."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(math.prod(self._shape), np.uint8).data
        loan = np.frombuffer(memory, np.uint8)
        weakref.finalize(loan, self._free.append, memory).atexit = False
        return loan.reshape(self._shape)[:length]
