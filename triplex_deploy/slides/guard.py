"""Keep a file open while threads read from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triplex_deploy.errors import SlideError


class ReadGuard:
    """Allows many readers until ``shut``, which waits for those that are reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._readers = 0
        self._shut = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the file open; raises ``SlideError`` after ``shut``."""
        with self._changed:
            if self._shut:
                raise SlideError(f"{self._path}: the slide is closed; open it again to read")
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def shut(self) -> None:
        """Refuse new readers and wait until none is left."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: self._readers == 0)
