"""Run one job with an opened model: lock, predict, write; leave nothing half-written."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.lookahead import Lookahead
from triplex_deploy.cohort.remote import at_hand
from triplex_deploy.cohort.resume import (
    KEY,
    complete_metadata,
    is_damaged_result,
    resume_key,
)
from triplex_deploy.errors import OutputError, TriplexError, one_line
from triplex_deploy.files.atomic import replace_files
from triplex_deploy.files.escape import encodable
from triplex_deploy.files.lock import exclusive_lock, holder
from triplex_deploy.files.ours import exists, remove_ours, require_no_link
from triplex_deploy.outputs.files import require_own_outputs, save_outputs
from triplex_deploy.outputs.page import is_page
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.progress import Progress, WallClock
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import LostDeviceError


def run_job(
    job: Job,
    model: Model,
    progress: Progress,
    before: Mapping[str, float] | None = None,
    lookahead: Lookahead | None = None,
) -> Outcome:
    """Predict one slide, write its files, and return the outcome; failures are not raised.

    ``before`` are the seconds of what came before the job and belongs to it, such as reading the
    bundle. ``lookahead`` prepares the slide of ``job.following``. ``KeyboardInterrupt`` is
    raised, after half-written files are removed, and ``LostDeviceError``, after which this process
    cannot use its GPU for any slide.
    """
    begin = time.perf_counter()
    try:
        with exclusive_lock(job.lock_path, job.wait) as is_locked:
            if is_locked:
                clock = WallClock(before)
                outcome = _run_locked(job, model, progress, clock, lookahead)
                return replace(outcome, seconds=time.perf_counter() - begin)
            error_line = f"in progress elsewhere ({holder(job.lock_path)})"
            return Outcome(job, "elsewhere", 0.0, error=error_line)
    except LostDeviceError:
        raise
    except Exception as error:  # noqa: BLE001 - an error of one slide must not end the others
        return failed_outcome(job, error, time.perf_counter() - begin)


def failed_outcome(job: Job, error: Exception, seconds: float) -> Outcome:
    """Return the outcome of a job that failed after ``seconds``, from within an except clause."""
    text = one_line(error)
    if job.source is not None:
        text = text.replace(str(job.slide), job.source.name)  # the copy is gone by now
    return Outcome(job, "failed", seconds, error=text, traceback=traceback.format_exc())


def sweep(job: Job) -> None:
    """Remove what a killed run has left beside complete results."""
    if job.work_dir.exists() or job.lock_path.exists():
        with exclusive_lock(job.lock_path) as is_locked:
            if is_locked:
                shutil.rmtree(job.work_dir, ignore_errors=True)


def _run_locked(
    job: Job,
    model: Model,
    progress: Progress,
    clock: WallClock,
    lookahead: Lookahead | None,
) -> Outcome:
    """Return the outcome, without its time."""
    if job.resume:
        metadata = complete_metadata(job, model.bundle)  # another process may have been faster
        if metadata is not None:
            return Outcome(job, "skipped", 0.0, metadata)
    _require_own(job)
    with at_hand(job.source, clock), _staging_folder(job) as staging:
        key = _key(job, model.bundle)  # of the slide as it was before it was read
        ahead = None
        if lookahead is not None:
            ahead, progress = lookahead.take(job), lookahead.watched(job, progress)
        prediction = predict_slide(job.slide, model, _with_cache(job), progress, ahead)
        clock.take(prediction.run.get("wall_s", {}))
        if key != _key(job, model.bundle):
            key = None  # slide or spots were replaced before they were opened
        if job.source is not None:
            run = {**prediction.run, "slide_url": job.source.name}
            prediction = replace(prediction, run=run)
        prediction = replace(prediction, slide_name=encodable(job.h5ad_path.stem))
        with _os_errors_as_output_errors(job):
            metadata = _save(prediction, job, staging, key, clock)
            _publish(job, staging)
    return Outcome(job, "done", 0.0, metadata)


def _save(
    prediction: Prediction, job: Job, staging: Path, key: str | None, clock: WallClock
) -> dict[str, Any]:
    h5ad_path, json_path = staging / job.h5ad_path.name, staging / job.metadata_path.name
    report_path = staging / job.report_path.name if job.report else None
    return save_outputs(prediction, h5ad_path, json_path, report_path, {KEY: key}, clock)


def _with_cache(job: Job) -> PredictOptions:
    """Save features of an unfinished slide in its work folder, unless a cache was chosen."""
    if not job.resume or job.options.cache is not None:
        return job.options
    return replace(job.options, cache=job.work_dir / "features")


@contextmanager
def _staging_folder(job: Job) -> Iterator[Path]:
    """Yield an empty folder for the files; remove the whole work folder on success.

    On failure the saved features stay for the next run, if there are any.
    """
    staging = job.work_dir / "files"
    shutil.rmtree(staging if job.resume else job.work_dir, ignore_errors=True)
    try:
        with _os_errors_as_output_errors(job):
            staging.mkdir(parents=True)
            (job.work_dir / "features").mkdir(exist_ok=True)
        yield staging
        shutil.rmtree(job.work_dir, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in (job.work_dir / "features", job.work_dir):
            with suppress(OSError):  # absent, or not empty
                folder.rmdir()


def _publish(job: Job, staging: Path) -> None:
    """Move complete files to their names, all or none; the h5ad is last and stands for them."""
    paths = [job.metadata_path, job.h5ad_path]
    if job.report:
        paths.insert(0, job.report_path)
    else:
        remove_ours(job.report_path, is_page)  # the report of an earlier prediction
    replace_files([staging / path.name for path in paths], paths)


@contextmanager
def _os_errors_as_output_errors(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{job.h5ad_path}: cannot be written ({error.strerror or error}); "
            "check the folder's permissions and free space, or choose another"
        ) from error


def _require_own(job: Job) -> None:
    """Refuse to replace what is not of this package, and to write through a link."""
    require_own_outputs(job.h5ad_path, is_damaged_result(job), job.report)
    for folder in (job.work_dir, job.work_dir / "files", job.work_dir / "features"):
        require_no_link(folder)
        if exists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: is not a folder; move it away or choose another --out")


def _key(job: Job, bundle: Bundle) -> str | None:
    """Return the resume key; None if a file cannot be read, which predicting reports better."""
    try:
        return resume_key(job, bundle)
    except (OSError, TriplexError):
        return None
