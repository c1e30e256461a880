"""Write the files that one prediction leaves in a folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.h5ad_parts import h5ad_bytes
from triplex_deploy.outputs.json_file import metadata_text
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.report import render_report


def write_outputs(prediction: Prediction, folder: Path, report: bool = True) -> Path:
    """Write ``<slide>.h5ad``, ``<slide>.json`` and ``<slide>.html``; return the path of the first.

    All files are complete before the first gets its name. The h5ad gets its name last, as it
    stands for all of them.

    Args:
        prediction: What to write.
        folder: An existing folder.
        report: Write the HTML report; otherwise the report of an earlier prediction is removed.

    Raises:
        OutputError: If a file cannot be written.
    """
    h5ad_path = folder / f"{prediction.slide_name}.h5ad"
    json_path = folder / f"{prediction.slide_name}.json"
    report_path = folder / f"{prediction.slide_name}.html"
    with ExitStack() as stack:  # files get their names in the opposite order
        temporary_h5ad = stack.enter_context(atomic_path(h5ad_path))
        temporary_json = stack.enter_context(atomic_path(json_path))
        temporary_report = stack.enter_context(atomic_path(report_path)) if report else None
        save_outputs(prediction, temporary_h5ad, temporary_json, temporary_report)
    if not report:
        report_path.unlink(missing_ok=True)
    return h5ad_path


def save_outputs(
    prediction: Prediction, h5ad_path: Path, json_path: Path, report_path: Path | None
) -> None:
    """Write the files of a prediction in place: to temporary paths, which the caller renames.

    Args:
        prediction: What to write.
        h5ad_path: Path of the h5ad.
        json_path: Path of the metadata.
        report_path: Path of the HTML report, None for no report.

    Raises:
        OSError: If a file cannot be written.
    """
    h5ad_path.write_bytes(h5ad_bytes(prediction.to_anndata()))
    json_path.write_text(metadata_text(prediction), encoding="utf-8")
    if report_path is not None:
        report_path.write_text(render_report(prediction), encoding="utf-8")


def is_prediction(h5ad_path: Path) -> bool:
    """Return True if an existing h5ad was written by this package, False for a measurement."""
    import h5py

    try:
        with h5py.File(h5ad_path, "r") as file:
            return "uns/triplex/schema" in file
    except OSError:
        return False
