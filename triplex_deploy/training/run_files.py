"""Write and read the files of one fold of a run; every file is replaced atomically."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.ours import (
    PNG_MARK,
    IsOurs,
    exists,
    has_keys,
    is_our_png,
    require_ours,
)
from triplex_deploy.models.torch_files import current_state_keys, load_tensors, save_tensors

CHECKPOINT: Final = "checkpoint.ckpt"
STATE: Final = "state.pt"
HISTORY: Final = "history.csv"
CURVES: Final = "curves.png"
METRICS: Final = "metrics.json"
_ZIP: Final = b"PK\x03\x04"
_OWN: Final[Mapping[str, IsOurs]] = {
    CHECKPOINT: lambda head: head.startswith(_ZIP) and b"triplex-checkpoint" in head,
    STATE: lambda head: head.startswith(_ZIP) and b"options" in head and b"config" in head,
    HISTORY: lambda head: head.startswith(b"epoch,"),
    METRICS: has_keys("fold", "selection", "model"),
}
"""What recognizes the files of a run; ``CURVES`` of earlier versions have no mark."""


def require_own_run(folder: Path) -> None:
    """Raise ``OutputError`` if a file that a run did not write has the name of one of its files."""
    for name, recognize in _OWN.items():
        require_ours(folder / name, recognize, "a file of a training run")
    is_run = any(exists(folder / name) for name in _OWN)
    require_ours(folder / CURVES, lambda head: is_run or is_our_png(head), "a picture")


def files_of_folds(run: Path, name: str) -> list[Path]:
    """Return the file ``name`` of each fold of a run in order, or of a run of a single fold."""
    folds = sorted(run.glob(f"fold-*/{name}"), key=lambda path: _in_order(path.parent.name))
    return folds or sorted(run.glob(name))


def _in_order(fold: str) -> tuple[int, str]:
    """Return a sort key that puts fold-10 after fold-9."""
    return len(fold), fold


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state at the start of the next epoch, and the history so far as CSV."""
    save_tensors(dict(state), folder / STATE)
    write_history(folder, state["record"]["history"])


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the last saved state, or None if the run has none yet.

    Weights that an older version saved get the present names of modules.
    """
    if not (folder / STATE).is_file():
        return None
    state: dict[str, Any] = load_tensors(folder / STATE)
    for weights in ("model", "mean"):
        state[weights] = current_state_keys(state[weights])
    return state


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the rows of a history as CSV."""
    with atomic_path(folder / HISTORY) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON."""
    with atomic_path(folder / METRICS) as path:
        path.write_text(json.dumps(without_nan(metrics), indent=2) + "\n", encoding="utf-8")


def draw_curves(folder: Path, history: Sequence[Mapping[str, float]], best_epoch: int) -> None:
    """Draw the training loss, and the correlation of a selection if any, over epochs as PNG."""
    from matplotlib.figure import Figure

    shown = {"train_loss": "training loss", "select_pcc": "mean correlation"}
    drawn = {key: label for key, label in shown.items() if key in history[0]}
    figure = Figure(figsize=(4 * len(drawn), 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (key, label) in zip(axes, drawn.items(), strict=True):
        axis.plot(epochs, [row[key] for row in history])
        axis.axvline(best_epoch, color="0.6", linestyle=":")
        axis.set(xlabel="epoch", ylabel=label)
    with atomic_path(folder / CURVES) as path:
        figure.savefig(path, format="png", dpi=120, metadata=PNG_MARK)


def without_nan(value: Any) -> Any:
    """Return plain values with None for numbers that JSON does not have: NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
