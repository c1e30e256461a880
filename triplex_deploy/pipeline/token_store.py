"""Target tokens between encoding and fusion: in memory up to a budget, then in a temporary file."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import OutputError


class TokenStore:
    """A float32 array of ``shape`` = (tiles, tokens, D); use it as a context manager.

    Beyond ``budget_bytes`` the array is memory-mapped onto an unnamed temporary file, which the
    operating system removes on every way out. Raises ``OutputError`` if that file cannot grow.
    """

    def __init__(self, shape: tuple[int, int, int], budget_bytes: float) -> None:
        self.shape = shape
        self.in_memory = math.prod(shape) * 4 <= budget_bytes
        self._budget_bytes = budget_bytes
        self._file: Any = None
        self._array: NDArray[np.float32] | None = None

    def __enter__(self) -> Self:
        if self.in_memory:
            self._array = np.empty(self.shape, dtype=np.float32)
            return self
        try:
            self._file = tempfile.TemporaryFile(prefix="triplex-tokens-")
            _reserve(self._file, math.prod(self.shape) * 4)
            self._array = np.memmap(self._file, dtype=np.float32, mode="r+", shape=self.shape)
        except OSError as error:
            self.close()
            raise OutputError(
                f"{tempfile.gettempdir()}: no room for the target tokens ({error}); "
                "raise --memory-gb or point TMPDIR at a larger disk"
            ) from error
        return self

    def put(self, rows: NDArray[np.int64], tokens: NDArray[np.float32]) -> None:
        """Store ``tokens`` (B, tokens, D) at ``rows`` (B,)."""
        self._opened()[rows] = tokens

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The tokens at ``rows`` (B,) as (B, tokens, D)."""
        return np.asarray(self._opened()[rows])

    def close(self) -> None:
        self._array = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> NDArray[np.float32]:
        assert self._array is not None, "TokenStore used outside its context"
        return self._array

    def __exit__(self, *_: object) -> None:
        self.close()


def _reserve(file: Any, n_bytes: int) -> None:
    """Claim the disk space now: a full disk is an error here and a crash once mapped."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:
        file.truncate(n_bytes)
