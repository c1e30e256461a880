"""Pad batches on a GPU to fixed sizes, so that each graph runs at two sizes at most.

ONNX Runtime plans the convolutions of a graph again whenever the size of its batches changes, and
TensorRT sets its shapes again. Rows of a batch do not depend on each other, so the rows that fill a
batch up change no other row; they are cut off afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.batching import join
from triplex_deploy.runtime.device_array import DeviceArray, Tensor, Tensors
from triplex_deploy.runtime.row_table import RowTable
from triplex_deploy.runtime.session import Arrays, Buffers, Session, dynamic_length

SMALLER: Final = 4
"""The smaller of a graph's two sizes is this part of the larger: for the rest of a slide."""


def pad_batches(sessions: Mapping[str, Session], rows: Mapping[str, int]) -> dict[str, Session]:
    """Return sessions that run at two fixed sizes, equal to ``sessions`` in what they return.

    Args:
        sessions: The sessions of a GPU, by graph name.
        rows: The usual number of rows of a call, by ``GraphSpec.kind``. Graphs of another kind
            are returned as they are.
    """
    return {
        name: _PaddedSession(session, rows[session.spec.kind])
        if session.spec.kind in rows
        else session
        for name, session in sessions.items()
    }


class _PaddedSession(Session):
    """Runs another session at two sizes; it does not close that session."""

    def __init__(self, session: Session, rows: int) -> None:
        super().__init__(session.spec)
        self._most = rows if session.most_rows is None else min(rows, session.most_rows)
        self.most_rows = self._most
        self.runs_in_caller = session.runs_in_caller
        self.takes_turns = session.takes_turns
        self._session = session
        self._sizes = (max(1, self._most // SMALLER), self._most)

    def prepare(self) -> None:
        self._session.prepare()

    def _run(self, inputs: Tensors) -> Arrays:
        return self._submit(inputs)()

    def _submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        parts = [_Part(piece, self._size(piece, inputs)) for piece in self._pieces(inputs)]
        started = [(part, self._session.submit(part.padded)) for part in parts]
        return lambda: join([part.cut(collect()) for part, collect in started])

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        if self._length(inputs) > self._most:
            return self._run(inputs)
        part = _Part(inputs, self._size(inputs, inputs))
        return part.cut(self._session.run_kept(part.padded))

    def _upload(self, array: NDArray[Any]) -> Tensor:
        """Upload with as many rows as a call has, so that any part of them can be filled up."""
        n_rows = len(array)
        size = next((size for size in self._sizes if size >= n_rows), n_rows)
        return self._session.upload(_filled(array, size, 0))[:n_rows]

    def _pieces(self, inputs: Tensors) -> Iterator[Tensors]:
        length = self._length(inputs)
        for begin in range(0, length, self._most):
            rows = slice(begin, min(begin + self._most, length))
            yield {name: array[rows] for name, array in inputs.items()}

    def _size(self, piece: Tensors, whole: Tensors) -> int:
        """Return the size to run a piece at; the rest of a large batch keeps the large size."""
        if self._length(whole) > self._most:
            return self._most
        return next(size for size in self._sizes if size >= self._length(piece))

    def _length(self, inputs: Tensors) -> int:
        return dynamic_length(self.spec, inputs)

    def lend_buffers(self, shape: tuple[int, ...]) -> Buffers | None:
        return self._session.lend_buffers(shape)

    def open_table(self, shape: tuple[int, ...]) -> RowTable | None:
        return self._session.open_table(shape)

    def close(self) -> None:
        pass


class _Part:
    """A batch that is filled up to ``size`` rows."""

    def __init__(self, inputs: Tensors, size: int) -> None:
        """Fill up arrays on the GPU with rows that are there, and the others to match."""
        windows = {
            name: array.window(size)
            for name, array in inputs.items()
            if isinstance(array, DeviceArray)
        }
        self._first = next((window[1] for window in windows.values() if window), 0)
        self._n_rows = len(next(iter(inputs.values())))
        self.padded: dict[str, Tensor] = {}
        for name, array in inputs.items():
            window = windows.get(name)
            if window is not None and window[1] == self._first:
                self.padded[name] = window[0]
            else:
                host = array if isinstance(array, np.ndarray) else array.numpy()
                self.padded[name] = _filled(host, size, self._first)

    def cut(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rows of the outputs that belong to the batch."""
        rows = slice(self._first, self._first + self._n_rows)
        return {name: array[rows] for name, array in outputs.items()}


def _filled(array: NDArray[Any], size: int, first: int) -> NDArray[Any]:
    """Return ``size`` rows with ``array`` from row ``first`` on, and copies of a row around it."""
    if len(array) == size:
        return array
    filled = np.empty((size, *array.shape[1:]), array.dtype)
    filled[first : first + len(array)] = array
    filled[:first] = array[0]
    filled[first + len(array) :] = array[0]
    return filled
