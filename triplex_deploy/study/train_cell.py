"""Train one cell: lock it, resume where it was interrupted, and return the outcome."""

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
from triplex_deploy.files.ours import first_foreign
from triplex_deploy.study.cells import CELL_FILE, METRICS_FILE, StudyCell, metrics_of, read_record
from triplex_deploy.training.prepared import open_prepared
from triplex_deploy.training.run_files import CHECKPOINT, CURVES, HISTORY, STATE
from triplex_deploy.training.train import SELECTING, train_fold

logger = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 5.0
"""Seconds between two updates of the time in a cell's record."""

_OWN_FILES: Final = tuple(
    pattern
    for name in (CELL_FILE, METRICS_FILE, CHECKPOINT, STATE, HISTORY, CURVES)
    for pattern in (name, f"{SELECTING}/{name}")
)
"""All files of a cell."""

Status = Literal["done", "kept", "failed", "elsewhere"]
"""``kept``: finished earlier. ``elsewhere``: another process holds the lock."""


@dataclass(frozen=True)
class CellOutcome:
    """Result of one cell, returned for failed cells as well."""

    cell: StudyCell
    """The cell."""
    status: Status
    """``done``, ``kept`` (finished earlier), ``failed`` or ``elsewhere``."""
    error: str | None = None
    """What went wrong, on one line."""
    traceback: str | None = None
    """Python's traceback of an error."""


def train_cell(cell: StudyCell, wait: bool = False) -> CellOutcome:
    """Train a cell unless it is finished, and return the outcome; failures are not raised.

    ``KeyboardInterrupt`` is raised; the next run resumes the cell from its last whole epoch.

    Args:
        cell: The cell.
        wait: Wait while another process trains the cell; otherwise its outcome is ``elsewhere``.
    """
    try:
        lock = cell.folder.with_name(f".{cell.folder.name}.lock")
        make_folder(lock.parent)
        with exclusive_lock(lock, wait) as is_locked:
            if not is_locked:
                return CellOutcome(cell, "elsewhere", f"in progress elsewhere ({holder(lock)})")
            if metrics_of(cell) is not None:
                return CellOutcome(cell, "kept")
            _train(cell)
        return CellOutcome(cell, "done")
    except Exception as error:  # noqa: BLE001 - an error of one cell must not end the others
        return CellOutcome(cell, "failed", one_line(error), traceback.format_exc())


def _train(cell: StudyCell) -> None:
    record = read_record(cell.folder)
    if record is None or record.get("digest") != cell.digest:
        _clear(cell.folder)
        record = None
    prepared = open_prepared(cell.prepared)
    fold = prepared.folds[cell.fold]
    make_folder(cell.folder)
    watch = _Stopwatch(cell, float(record["training_s"]) if record else 0.0)
    logger.info("%s: %s", cell.key, "training is resumed" if record else "training")
    train_fold(prepared, fold, cell.folder, cell.config, cell.options, watch, resume=True)
    watch.save()
    for state in cell.folder.rglob(STATE):  # up to a gigabyte, and no longer needed
        state.unlink()


def _clear(folder: Path) -> None:
    """Remove a cell of other settings; refuse a folder that is not the folder of a cell."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if read_record(folder) is None:
        raise OutputError(f"{folder}: holds files that are not of a study; choose another --out")
    other = first_foreign(folder, _OWN_FILES)
    if other is not None:
        raise OutputError(
            f"{other}: is not of the study, and its folder would be removed as the settings "
            "changed; move it away or choose another --out"
        )
    logger.info("%s: has other settings or data; trained again", folder)
    # the metrics go first, so that a partly removed cell does not count as finished
    (folder / METRICS_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


class _Stopwatch:
    """A ``Progress`` that records how long a cell is trained, over all its attempts."""

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
        with atomic_path(cell.folder / CELL_FILE) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror or error}); choose another --out"
        ) from error
