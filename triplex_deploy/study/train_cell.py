"""Do one cell: lock it, go on where it was cut, and say what came of it."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.errors import OutputError, one_line
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.lock import exclusive_lock, holder
from triplex_deploy.study.cells import CELL, METRICS, StudyCell, metrics_of, read_note
from triplex_deploy.training.prepared import open_prepared
from triplex_deploy.training.run_files import STATE
from triplex_deploy.training.train import train_fold

logger = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 5.0

Status = Literal["done", "kept", "failed", "elsewhere"]
"""``kept``: was done already; ``elsewhere``: another process holds its lock."""


@dataclass(frozen=True)
class CellOutcome:
    """What came of a cell; ``error`` is one line, ``traceback`` for the curious."""

    cell: StudyCell
    status: Status
    error: str | None = None
    traceback: str | None = None


def train_cell(cell: StudyCell, wait: bool = False) -> CellOutcome:
    """Train the cell unless it is done; whatever goes wrong is the outcome, not raised.

    A cell that another process works on is waited for with ``wait``, and is ``elsewhere`` without.
    ``KeyboardInterrupt`` alone passes; the cell then goes on where it was the next time.
    """
    try:
        lock = cell.folder.with_name(f".{cell.folder.name}.lock")
        _make_folder(lock.parent)
        with exclusive_lock(lock, wait) as ours:
            if not ours:
                return CellOutcome(cell, "elsewhere", f"in progress elsewhere ({holder(lock)})")
            if metrics_of(cell) is not None:
                return CellOutcome(cell, "kept")
            _train(cell)
        return CellOutcome(cell, "done")
    except Exception as error:  # noqa: BLE001 - a bug in one cell is not the others' fault
        return CellOutcome(cell, "failed", one_line(error), traceback.format_exc())


def _train(cell: StudyCell) -> None:
    note = read_note(cell.folder)
    if note is None or note.get("digest") != cell.digest:
        _clear(cell.folder)
        note = None
    prepared = open_prepared(cell.prepared)
    fold = prepared.folds[cell.fold]
    _make_folder(cell.folder)
    watch = _Stopwatch(cell, float(note["training_s"]) if note else 0.0)
    logger.info("%s: training%s", cell.key, " goes on" if note else "")
    train_fold(prepared, fold, cell.folder, cell.config, cell.options, watch, resume=True)
    watch.save()
    for state in cell.folder.rglob(STATE):  # up to a gigabyte, and nothing goes on from it
        state.unlink()


def _clear(folder: Path) -> None:
    """Remove a cell of other settings; a folder that is no cell of ours is refused."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if read_note(folder) is None:
        raise OutputError(f"{folder}: holds files of no study; choose another --out")
    logger.info("%s: of other settings or data; trained anew", folder)
    (folder / METRICS).unlink(missing_ok=True)  # first, so that what remains is no result
    shutil.rmtree(folder)


class _Stopwatch:
    """A ``Progress`` that notes how long the cell has been trained, whoever interrupts it."""

    def __init__(self, cell: StudyCell, before_s: float) -> None:
        self._cell = cell
        self._before_s = before_s
        self._begin = self._saved = time.monotonic()
        self.save()

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        if time.monotonic() - self._saved >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        self._saved = time.monotonic()
        cell = self._cell
        content: dict[str, Any] = {
            "schema": 1,
            "digest": cell.digest,
            "dataset": cell.dataset,
            "model": cell.model,
            "fold": cell.fold,
            "seed": cell.seed,
            "settings": cell.settings(),
            "training_s": round(self._before_s + self._saved - self._begin, 3),
        }
        with atomic_path(cell.folder / CELL) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror or error}); choose another --out"
        ) from error
