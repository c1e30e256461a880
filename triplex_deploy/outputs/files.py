"""The files one prediction leaves in a folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.h5ad import write_h5ad
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.report import write_report
from triplex_deploy.outputs.sidecar import write_sidecar


def write_outputs(prediction: Prediction, folder: Path, report: bool = True) -> Path:
    """Write ``<slide>.h5ad``, ``<slide>.json`` and ``<slide>.html``; returns the first.

    All are complete before any takes its name, the h5ad last, so that it stands for the set.
    Without ``report``, one of an earlier prediction is removed. Raises ``OutputError``.
    """
    table = folder / f"{prediction.slide_name}.h5ad"
    facts, page = table.with_name(f"{prediction.slide_name}.json"), _page(table)
    with ExitStack() as stack:  # names are given in the opposite order
        write_h5ad(prediction, stack.enter_context(atomic_path(table)))
        write_sidecar(prediction, stack.enter_context(atomic_path(facts)))
        if report:
            write_report(prediction, stack.enter_context(atomic_path(page)))
    if not report:
        page.unlink(missing_ok=True)
    return table


def is_prediction(table: Path) -> bool:
    """Whether an existing h5ad is one of ours, and not somebody's measurement."""
    import h5py

    try:
        with h5py.File(table, "r") as file:
            return "uns/triplex/schema" in file
    except OSError:
        return False


def _page(table: Path) -> Path:
    return table.with_name(f"{table.stem}.html")
