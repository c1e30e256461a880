"""Define rows that graphs write and read without leaving the GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.runtime.device_array import DeviceArray, Tensor

LARGEST_PART: Final = 0.5
"""Largest part of the free memory of a GPU that one table takes: graphs need the rest."""


class RowTable(ABC):
    """An array of ``shape`` = (rows, ...), float32, on a GPU; ``Session.open_table`` makes it.

    Several threads may put and take rows. What is put is there for every later ``take``.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def check_rows(self, rows: NDArray[Any]) -> None:
        """Raise ``ContractError`` if one of ``rows`` is outside the table."""
        if rows.size and (rows.min() < 0 or rows.max() >= self.shape[0]):
            raise ContractError(f"rows {rows.min()} to {rows.max()}: the table has {self.shape[0]}")

    @abstractmethod
    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        """Store ``values`` (B, ...) at ``rows`` (B,)."""

    @abstractmethod
    def take(self, rows: NDArray[Any], room: int = 0) -> DeviceArray:
        """Return the values at ``rows``, of any shape, as (*rows.shape, ...).

        With ``room``, their memory has at least so many rows, so that a smaller batch can be filled
        up in place.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for the work in progress, and free the memory."""
