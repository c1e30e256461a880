"""The files one prediction leaves in a folder."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.report import write_report
from triplex_deploy.outputs.sidecar import write_sidecar


def write_outputs(prediction: Prediction, folder: Path, report: bool = True) -> Path:
    """Write ``<slide>.json``, ``<slide>.html`` and ``<slide>.h5ad``; returns the last.

    Each appears whole or not at all, and the h5ad comes last, so that it stands for the set.
    Raises ``OutputError``.
    """
    path = folder / f"{prediction.slide_name}.h5ad"
    write_sidecar(prediction, path.with_suffix(".json"))
    if report:
        write_report(prediction, path.with_suffix(".html"))
    prediction.write_h5ad(path)
    return path
