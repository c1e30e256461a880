"""Do one job with an opened model: lock, predict, write, and leave nothing half-done."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.resume import (
    complete_facts,
    is_damaged_result,
    record_completion,
    resume_key,
)
from triplex_deploy.errors import OutputError, TriplexError, one_line
from triplex_deploy.files.lock import holder, output_lock
from triplex_deploy.outputs.files import is_prediction, write_outputs
from triplex_deploy.outputs.page import require_own_page
from triplex_deploy.outputs.slide_summary import SlideSummary
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.model import Model


def perform(job: Job, model: Model, progress: Progress) -> Outcome:
    """Predict one slide and write its files; whatever goes wrong is the outcome, not raised.

    ``KeyboardInterrupt`` alone passes, once what was half-written is removed.
    """
    begin = time.perf_counter()
    try:
        with output_lock(job.lock, job.wait) as ours:
            if ours:
                outcome = _under_lock(job, model, progress)
                return replace(outcome, seconds=time.perf_counter() - begin)
            told = f"in progress elsewhere ({holder(job.lock)})"
            return Outcome(job, "elsewhere", 0.0, error=told)
    except Exception as error:  # noqa: BLE001 - a bug on one slide is not the others' fault
        seconds = time.perf_counter() - begin
        told = traceback.format_exc()
        return Outcome(job, "failed", seconds, error=one_line(error), traceback=told)


def sweep(job: Job) -> None:
    """Remove what a killed run left beside results that are complete."""
    if job.part.exists() or job.lock.exists():
        with output_lock(job.lock) as ours:
            if ours:
                shutil.rmtree(job.part, ignore_errors=True)


def _under_lock(job: Job, model: Model, progress: Progress) -> Outcome:
    """The outcome, its time not yet known."""
    if job.resume:
        facts = complete_facts(job, model.bundle)  # another process may have been faster
        if facts is not None:
            return Outcome(job, "skipped", 0.0, facts)
    _require_own(job)
    with _part_folder(job) as files:
        key = _key(job, model.bundle)  # of the slide as it was before it was read
        prediction = predict_slide(job.slide, model, _with_cache(job), progress)
        prediction = replace(prediction, slide_name=job.table.stem)
        table = write_outputs(prediction, files, job.report)
        record_completion(files / job.facts.name, table, key)
        summary = SlideSummary.of(prediction) if job.report else None
        _publish(job, files)
    return Outcome(job, "done", 0.0, prediction.run, summary=summary)


def _with_cache(job: Job) -> PredictOptions:
    """Features of a slide that is cut off wait in its own hidden folder, unless told where."""
    if not job.resume or job.options.cache is not None:
        return job.options
    return replace(job.options, cache=job.part / "features")


@contextmanager
def _part_folder(job: Job) -> Iterator[Path]:
    """Yield an empty folder for the files; the whole is removed on success.

    Otherwise the files alone are: features stay for the next run, if there are any.
    """
    files = job.part / "files"
    shutil.rmtree(files if job.resume else job.part, ignore_errors=True)
    try:
        with _told_as_output_error(job):
            files.mkdir(parents=True)
            (job.part / "features").mkdir(exist_ok=True)
        yield files
        shutil.rmtree(job.part, ignore_errors=True)
    finally:
        shutil.rmtree(files, ignore_errors=True)
        for folder in (job.part / "features", job.part):
            with suppress(OSError):  # absent, or not empty
                folder.rmdir()


def _publish(job: Job, files: Path) -> None:
    """Give complete files their names, the table last, which stands for the set."""
    with _told_as_output_error(job):
        if not job.report:
            job.page.unlink(missing_ok=True)  # an old one would mislead
        for path in (job.page, job.facts, job.table) if job.report else (job.facts, job.table):
            (files / path.name).replace(path)


@contextmanager
def _told_as_output_error(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{job.table}: cannot be written ({error.strerror or error}); "
            "check the folder's permissions and free space, or choose another"
        ) from error


def _require_own(job: Job) -> None:
    """Refuse to write over a folder, or a file that is not ours: maybe the measurement."""
    table = job.table
    if table.is_dir():
        raise OutputError(f"{table}: is a folder; choose another --out")
    if table.exists() and not (is_prediction(table) or is_damaged_result(job)):
        raise OutputError(f"{table}: is no prediction of ours; choose another --out to keep it")
    if job.report:
        require_own_page(job.page)


def _key(job: Job, bundle: Bundle) -> str | None:
    """None where the slide or spots cannot be read, which predicting tells better."""
    try:
        return resume_key(job, bundle)
    except (OSError, TriplexError):
        return None
