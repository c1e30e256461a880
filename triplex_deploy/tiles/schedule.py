"""When each segment is decoded, and when it is not needed any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Schedule:
    """Segments in the order of their first use, over steps that run one after another.

    A segment that is needed again after its memory was wanted for others is an item twice.
    """

    item_of_use: NDArray[np.int64]  # (N, rows, columns) index into the items, -1 for none
    segment: NDArray[np.int64]  # (items,) number of the segment in its grid
    stripe: NDArray[np.int64]  # (items,) ascending
    first_step: NDArray[np.int64]  # (items,) ascending
    last_step: NDArray[np.int64]  # (items,)

    @classmethod
    def of(
        cls, segment_of_use: NDArray[np.int64], step: NDArray[np.int64], stripe: NDArray[np.int64]
    ) -> Schedule:
        """From what each use (N, rows, columns) needs and its step and stripe, both (N,) ascending.

        Within a stripe a segment is one item; stripes share none.
        """
        used = segment_of_use >= 0
        size = int(segment_of_use.max(initial=-1)) + 1
        key = (segment_of_use + stripe[:, None, None] * size)[used]
        steps = np.broadcast_to(step[:, None, None], used.shape)[used]
        keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        last = np.zeros(len(keys), np.int64)
        np.maximum.at(last, inverse, steps)
        order = np.argsort(steps[first], kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        item_of_use = np.full(used.shape, -1, np.int64)
        item_of_use[used] = rank[inverse]
        stripes, segments = np.divmod(keys[order], max(size, 1))
        return cls(item_of_use, segments, stripes, steps[first][order], last[order])

    def starting(self, step: int) -> range:
        """The items first needed in a step."""
        low, high = np.searchsorted(self.first_step, (step, step + 1))
        return range(int(low), int(high))

    def peak(self, delay: int) -> int:
        """Most items held at once if what ends with step s is let go before step s + delay."""
        if not len(self.segment):
            return 0
        steps = int(self.last_step.max()) + 1 + delay
        gained = np.bincount(self.first_step, minlength=steps)
        lost = np.bincount(self.last_step + delay, minlength=steps)
        return int(np.cumsum(gained - lost[: len(gained)]).max())
