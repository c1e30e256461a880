"""Write the files that one prediction leaves in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_paths
from triplex_deploy.files.hdf5 import OPEN_ELSEWHERE, open_hdf5
from triplex_deploy.files.ours import (
    exists,
    has_keys,
    is_ours,
    remove_ours,
    require_no_link,
    require_ours,
)
from triplex_deploy.outputs.h5ad_parts import h5ad_bytes
from triplex_deploy.outputs.page import is_page, require_own_page
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.report import render_report
from triplex_deploy.outputs.sidecar import H5AD_DIGEST, sidecar_text
from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.progress import WallClock


def write_outputs(prediction: Prediction, folder: Path, report: bool = True) -> Path:
    """Write ``<slide>.h5ad``, ``<slide>.json`` and ``<slide>.html``; return the path of the first.

    All files are complete before the first gets its name, and all get their names or none does.
    The h5ad is last, as it stands for all of them.

    Args:
        prediction: What to write.
        folder: An existing folder.
        report: Write the HTML report; otherwise the report of an earlier prediction is removed.

    Raises:
        OutputError: If a file cannot be written, or a file of another origin has its name.
    """
    h5ad_path = folder / f"{prediction.slide_name}.h5ad"
    json_path = folder / f"{prediction.slide_name}.json"
    report_path = folder / f"{prediction.slide_name}.html"
    require_own_outputs(h5ad_path, report=report)
    with atomic_paths(*([report_path] if report else []), json_path, h5ad_path) as temporary:
        temporary_json, temporary_h5ad = temporary[-2:]
        save_outputs(prediction, temporary_h5ad, temporary_json, temporary[0] if report else None)
    if not report:
        remove_ours(report_path, is_page)
    return h5ad_path


def require_own_outputs(h5ad_path: Path, is_damaged: bool = False, report: bool = True) -> None:
    """Raise ``OutputError`` if a file that a prediction would replace is not of this package.

    Args:
        h5ad_path: Where the prediction is written; the other files have the same stem.
        is_damaged: It is known that the h5ad was a prediction, though it does not open.
        report: A report is written as well.

    Raises:
        OutputError: If a file of another origin, a link or a folder has one of the names.
    """
    require_no_link(h5ad_path)
    if h5ad_path.is_dir():
        raise OutputError(f"{h5ad_path}: is a folder; choose another --out")
    is_there = exists(h5ad_path)
    if is_there and not (is_damaged or is_prediction(h5ad_path)):
        raise OutputError(f"{h5ad_path}: is not a prediction; choose another --out to keep it")
    json_path = h5ad_path.with_name(f"{h5ad_path.stem}.json")
    if not (is_there and _is_broken_json(json_path)):  # ours was cut short
        require_ours(json_path, is_metadata, "a run's metadata")
    if report:
        require_own_page(h5ad_path.with_name(f"{h5ad_path.stem}.html"))


is_metadata: Final = has_keys("bundle_id")
"""Returns True for the first bytes of the metadata of a run."""


def _is_broken_json(path: Path) -> bool:
    """Return True for a regular file that begins as JSON, but is none."""
    if not is_ours(path, lambda head: head.lstrip()[:1] in (b"{", b"[")):
        return False
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True
    return False


def save_outputs(
    prediction: Prediction,
    h5ad_path: Path,
    json_path: Path,
    report_path: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    clock: WallClock | None = None,
) -> dict[str, Any]:
    """Write the files of a prediction in place: to temporary paths, which the caller renames.

    Args:
        prediction: What to write.
        h5ad_path: Path of the h5ad.
        json_path: Path of the metadata, with the digest of the h5ad and the slide's summary.
        report_path: Path of the HTML report, None for no report.
        recorded: What the JSON file holds besides.
        clock: Clock of the whole run; its stages so far become ``wall_s`` of the metadata. Those
            of the h5ad end before it is written, those of the JSON file have the report in them.

    Returns:
        The metadata of the run, as in the JSON file.

    Raises:
        OSError: If a file cannot be written.
    """
    wall = clock or WallClock()
    with wall.stage("write h5ad"):
        content = h5ad_bytes(_timed(prediction, clock).to_anndata())
        h5ad_path.write_bytes(content)
    with wall.stage("write report"):
        summary = SlideSummary.of(prediction)
        if report_path is not None:
            page = render_report(_timed(prediction, clock))
            report_path.write_text(page, encoding="utf-8")
    run = _timed(prediction, clock).run
    digest = hashlib.sha256(content).hexdigest()
    text = sidecar_text({**run, **(recorded or {}), H5AD_DIGEST: digest}, summary)
    json_path.write_text(text, encoding="utf-8")
    return run


def _timed(prediction: Prediction, clock: WallClock | None) -> Prediction:
    """Return the prediction with the stages so far in its metadata."""
    if clock is None:
        return prediction
    return replace(prediction, run={**prediction.run, "wall_s": clock.stages()})


def is_prediction(h5ad_path: Path) -> bool:
    """Return True if an existing h5ad was written by this package, False for a measurement.

    Raises:
        OutputError: It is open elsewhere, so that this cannot be known.
    """
    if not h5ad_path.is_file():
        return False
    try:
        with open_hdf5(h5ad_path, OutputError, "prediction", "predict again", ()) as file:
            return "uns/triplex/schema" in file
    except OutputError as error:
        if OPEN_ELSEWHERE in str(error):
            raise
        return False
    except (OSError, RuntimeError, KeyError):  # h5py's errors of damaged files
        return False
