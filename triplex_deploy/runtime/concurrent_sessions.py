"""Let several workers share the sessions of a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.row_table import RowTable
from triplex_deploy.runtime.session import Arrays, Buffers, Session


def share_gpu(sessions: Mapping[str, Session]) -> dict[str, Session]:
    """Return sessions that several threads may call at once.

    Sessions that take turns start one call at a time, whichever graph it is for. The lock is held
    while a call is started and computed, and not while its outputs are copied back: meanwhile the
    next call computes, and other workers read, store and upload.
    """
    lock = threading.Lock()
    return {
        name: _LockedSession(session, lock) if session.takes_turns else session
        for name, session in sessions.items()
    }


class _LockedSession(Session):
    """Starts another session under a lock; it does not close that session."""

    def __init__(self, session: Session, lock: threading.Lock) -> None:
        super().__init__(session.spec)
        self.most_rows = session.most_rows
        self._session = session
        self._lock = lock

    def _run(self, inputs: Tensors) -> Arrays:
        return self._submit(inputs)()

    def _submit(self, inputs: Tensors) -> Callable[[], Arrays]:
        with self._lock:
            return self._session.submit(inputs)

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        with self._lock:
            return self._session.run_kept(inputs)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return self._session.upload(array)

    def lend_buffers(self, shape: tuple[int, ...]) -> Buffers | None:
        return self._session.lend_buffers(shape)

    def open_table(self, shape: tuple[int, ...]) -> RowTable | None:
        return self._session.open_table(shape)

    def close(self) -> None:
        pass
