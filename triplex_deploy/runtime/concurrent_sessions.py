"""Let several workers share the sessions of a GPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from triplex_deploy.runtime.device_array import Tensor, Tensors
from triplex_deploy.runtime.session import Arrays, Session


def one_call_at_a_time(sessions: Mapping[str, Session]) -> dict[str, Session]:
    """Return sessions that run one call at a time, whichever graph it is for.

    While one worker computes on the GPU, the others read, store and upload.
    """
    lock = threading.Lock()
    return {name: _LockedSession(session, lock) for name, session in sessions.items()}


class _LockedSession(Session):
    """Runs another session under a lock; it does not close that session."""

    def __init__(self, session: Session, lock: threading.Lock) -> None:
        super().__init__(session.spec)
        self._session = session
        self._lock = lock

    def _run(self, inputs: Tensors) -> Arrays:
        with self._lock:
            return self._session.run(inputs)

    def _run_kept(self, inputs: Tensors) -> dict[str, Any]:
        with self._lock:
            return self._session.run_kept(inputs)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return self._session.upload(array)

    def close(self) -> None:
        pass
