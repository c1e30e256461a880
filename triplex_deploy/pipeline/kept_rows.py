"""Keep the rows of one output between two graphs: on the GPU that runs them, or on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import OutputError
from triplex_deploy.pipeline.row_store import RowStore
from triplex_deploy.runtime.device_array import Tensor
from triplex_deploy.runtime.row_table import RowTable


class KeptRows:
    """Rows that graphs write and take; several threads may use them at once.

    On a GPU with room they stay there, and only their numbers cross to it. A copy on the host is
    kept where the host needs the values, such as features for the cache.
    """

    def __init__(
        self, shape: tuple[int, ...], table: RowTable | None, store: RowStore | None
    ) -> None:
        """Keep rows of ``shape`` = (rows, ...) in an open table, an open store, or both."""
        self.shape = shape
        self._table = table
        self._store = store

    @property
    def is_on_gpu(self) -> bool:
        """Return whether graphs take the rows from the GPU's memory."""
        return self._table is not None

    @property
    def place(self) -> str:
        """Return where the rows are, in words."""
        if self._table is not None:
            return "GPU" if self._store is None else "GPU, and a copy in memory"
        return "memory" if self._store is None or self._store.in_memory else "file"

    @property
    def host_bytes(self) -> int:
        """Return the memory of the host that the rows take."""
        return self._store.n_bytes if self._store is not None and self._store.in_memory else 0

    def put(self, rows: NDArray[np.int64], values: Tensor) -> NDArray[Any] | None:
        """Store finite ``values`` (B, ...) at ``rows`` (B,).

        Returns the values if they are on the host anyway, otherwise None.
        """
        if self._table is not None:
            self._table.put(rows, values)
        if self._store is None:
            return values if isinstance(values, np.ndarray) else None
        copied = values if isinstance(values, np.ndarray) else values.numpy()
        self._store.put(rows, copied)
        return copied

    def take(self, rows: NDArray[np.int64], room: int = 0) -> Tensor:
        """Return the values at ``rows``, of any shape, where the graphs run.

        On a GPU their memory has at least ``room`` rows, so that a batch can be filled up in place.
        """
        if self._table is not None:
            return self._table.take(rows, room)
        return self.on_host(rows)

    def on_host(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the values at ``rows`` as an array of the host.

        Raises ``OutputError`` if no copy is kept there.
        """
        if self._store is None:
            raise OutputError("rows are on the GPU alone; keep a copy on the host")
        return self._store.take(rows)
