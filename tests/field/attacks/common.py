"""Keep the table of all attacks, and what several kinds of them feed."""

from __future__ import annotations

import gzip
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.field.child import (
    INTERRUPTED,
    Outcome,
    Verdict,
)
from tests.field.kit import (
    Kit,
)

Attack = Callable[[Kit], Verdict]
ATTACKS: dict[str, tuple[str, Attack]] = {}
"""What is fed and the function that feeds it, by row of the list."""


def attack(row: str, fed: str) -> Callable[[Attack], Attack]:
    """Register a function for a row of the list."""

    def register(function: Attack) -> Attack:
        ATTACKS[row] = (fed, function)
        return function

    return register


def was_interrupted(outcome: Outcome) -> bool:
    """Return True if a command ended as after Ctrl-C.

    ``python -m`` ends by SIGINT, which a shell shows as 130 too, if the signal came while a library
    ran a string as code.
    """
    return outcome.status in (INTERRUPTED, -signal.SIGINT)


def prepare_visium(kit: Kit, **options: Any) -> Outcome:
    return kit.prepare(kit.folder / "visium", "--format", "visium", **options)


COORDINATE = b"%%MatrixMarket matrix coordinate integer general\n"


def zip_bomb(path: Path, line: bytes, megabytes: int) -> None:
    block = line * (1_000_000 // len(line))
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(megabytes):
            stream.write(block)


@contextmanager
def held_lock(kit: Kit, text: bytes) -> Iterator[None]:
    import fcntl

    path = kit.folder / "out" / ".small.lock"
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(text)
        stream.flush()
        yield
