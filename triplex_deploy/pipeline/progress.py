"""What the pipeline tells a caller while it runs, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives ``start(stage, total)`` and then ``advance(n)`` until ``n`` sums to ``total``."""

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, n: int) -> None: ...


class Silent:
    """A ``Progress`` that shows nothing."""

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass


class StageClock:
    """Wall seconds per named stage; a stage entered again adds to its sum."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
