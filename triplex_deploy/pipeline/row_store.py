"""Store rows of numbers between two stages: in memory, or beyond a budget in a temporary file."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import threading
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BackendError, OutputError

RESIDENT_BYTES: Final = 64 << 20
"""Bytes of a mapped file that are touched before its pages are given back to the system."""
_MOST_HALF: Final = float(np.finfo(np.float16).max)


class RowStore:
    """An array of ``shape`` = (rows, ...), float32 or with ``half`` float16; a context manager.

    An array larger than ``budget_bytes`` is memory-mapped onto an unnamed temporary file, which the
    operating system removes when the process ends in any way; its pages do not stay in memory.
    Several threads may put different rows at once. Raises ``OutputError`` if there is no room for
    the file.
    """

    def __init__(self, shape: tuple[int, ...], budget_bytes: float, half: bool = False) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self.n_bytes = math.prod(shape) * self.dtype.itemsize
        self.in_memory = self.n_bytes <= budget_bytes
        self._row_bytes = self.n_bytes // max(shape[0], 1)
        self._map: mmap.mmap | None = None
        self._array: NDArray[Any] | None = None
        self._touched = 0
        self._touching = threading.Lock()

    def __enter__(self) -> Self:
        if self.in_memory:
            self._array = np.empty(self.shape, self.dtype)
            return self
        try:
            with tempfile.TemporaryFile(prefix="triplex-rows-") as file:
                _reserve(file, self.n_bytes)
                self._map = mmap.mmap(file.fileno(), self.n_bytes)
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: no room for {self.n_bytes / 1e9:.1f} GB of features "
                f"({error}); raise --memory-gb or point TMPDIR at a larger disk"
            ) from error
        self._array = np.frombuffer(self._map, self.dtype).reshape(self.shape)
        return self

    def put(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Store finite ``values`` (B, ...) at ``rows`` (B,).

        Raises ``BackendError`` if float16 cannot hold one of them.
        """
        if self.dtype == np.float16 and values.size and float(np.abs(values).max()) > _MOST_HALF:
            raise BackendError(
                f"half_features: a feature of {float(np.abs(values).max()):.3g} is more than "
                f"float16 holds ({_MOST_HALF:.0f}); leave --half-features out"
            )
        self._opened()[rows] = values
        self._release_pages(rows.size)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the values at ``rows``, of any shape, as (*rows.shape, ...) float32."""
        values: NDArray[np.float32] = self._opened()[rows].astype(np.float32, copy=False)
        self._release_pages(rows.size)
        return values

    def _release_pages(self, n_rows: int) -> None:
        """Give the pages of a mapped file back now and then; the content stays in the file."""
        if self._map is None:
            return
        with self._touching:
            self._touched += n_rows * self._row_bytes
            if self._touched >= RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                self._touched = 0
                self._map.madvise(mmap.MADV_DONTNEED)

    def _opened(self) -> NDArray[Any]:
        assert self._array is not None, "RowStore used outside its context"
        return self._array

    def __exit__(self, *_: object) -> None:
        self._array = None
        self._map = None  # unmapped when the last row that was taken is gone


def _reserve(file: Any, n_bytes: int) -> None:
    """Reserve the disk space now: a full disk is an error here, and a crash once mapped."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:
        file.truncate(n_bytes)
