"""What a worker process does: open the bundle, then job after job, telling how it gets on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Final

from triplex_deploy.errors import BackendError, TriplexError, one_line
from triplex_deploy.pipeline.many.engine import Opening
from triplex_deploy.pipeline.many.job import Job, Outcome
from triplex_deploy.pipeline.many.perform import perform
from triplex_deploy.pipeline.progress import Progress
from triplex_deploy.runtime.model import Model

LOGGER: Final = "triplex_deploy"
ORPHAN_GRACE_S: Final = 2.0


@dataclass(frozen=True)
class Opened:
    """The bundle is open."""


@dataclass(frozen=True)
class Started:
    """A stage of the job under way begins."""

    stage: str
    total: int


@dataclass(frozen=True)
class Advanced:
    """A part of the stage is done."""

    n: int


def serve(connection: Connection, opening: Opening, log_level: int) -> None:
    """Answer jobs from ``connection`` until it ends or SIGTERM comes.

    Sends ``Opened`` or the error that prevented it, then per job ``Started`` and ``Advanced`` and
    last its ``Outcome``.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    progress = _PipeProgress(connection)
    try:
        model = _open(connection, opening)
        if model is None:
            return
        with model:
            connection.send(Opened())
            while True:
                connection.send(perform_logged(connection.recv(), model, progress, log_level))
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the parent has gone, or wants us to


def perform_logged(job: Job, model: Model, progress: Progress, log_level: int) -> Outcome:
    """``perform``, with what was logged meanwhile in the outcome: nobody reads our log here."""
    with _collected(log_level) as messages:
        outcome = perform(job, model, progress)
    return replace(outcome, messages=tuple(messages))


def open_or_explain(opening: Opening) -> Model | TriplexError:
    """The opened model, or why it cannot be had."""
    try:
        return opening.open()
    except TriplexError as error:
        return error
    except Exception as error:  # noqa: BLE001 - any kind must reach the one who waits
        return BackendError(one_line(error))


def _open(connection: Connection, opening: Opening) -> Model | None:
    model = open_or_explain(opening)
    if isinstance(model, TriplexError):
        connection.send(model)
        return None
    return model


class _PipeProgress:
    """A ``Progress`` at the far end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, stage: str, total: int) -> None:
        self._connection.send(Started(stage, total))

    def advance(self, n: int) -> None:
        self._connection.send(Advanced(n))


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, record.getMessage()))


@contextmanager
def _collected(log_level: int) -> Iterator[list[tuple[int, str]]]:
    logger, collector = logging.getLogger(LOGGER), _Collector()
    logger.setLevel(log_level)
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def _die_with_parent() -> None:
    """Stop like after Ctrl-C when the parent was killed; then at once."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os._exit(1)
