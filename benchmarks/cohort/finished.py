"""Make an output folder with many complete slides, from one that is predicted."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from tests.cohort.stub_model import StubOpener, stub_bundle, write_slide
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs
from triplex_deploy.cohort.inputs import find_slides
from triplex_deploy.cohort.job import Job, Outcome, plan_jobs
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import Progress, Silent

OPTIONS = PredictOptions(mpp=0.5, all_tiles=True)
"""Options of the tiny slides: four spots each."""


class NobodyWatches:
    """A ``Watcher`` that shows nothing."""

    def progress(self, _job: Job) -> Progress:
        return Silent()


def slide_list(folder: Path, n_slides: int) -> Path:
    """Write a tiny slide, and a slide list that names it under ``n_slides`` names."""
    slide = write_slide(folder / "tiny.png")
    path = folder / f"slides-{n_slides}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "output"])
        rows.writerows([slide.name, f"slide{number:05}"] for number in range(n_slides))
    return path


def plan(listed: Path, out: Path) -> list[Job]:
    """Read a slide list and plan its slides, as ``predict`` does."""
    return plan_jobs(find_slides([listed]), OPTIONS, out)


def predict(
    jobs: Sequence[Job], traces: Path, executor: str = "local", workers: int = 1
) -> list[Outcome]:
    """Return the outcomes of ``jobs`` with the stand-in model."""
    traces.mkdir(exist_ok=True)
    opener = StubOpener(traces, threads=1)
    choice = ExecutorChoice(executor, workers, logging.WARNING)
    return list(run_jobs(jobs, stub_bundle(), lambda n: choice.make(opener, NobodyWatches(), n)))


def complete(jobs: Sequence[Job], traces: Path) -> None:
    """Predict the first slide, and link its files to the names of the others."""
    first = jobs[0]
    (outcome,) = predict([first], traces)
    if outcome.status != "done":
        raise RuntimeError(f"the first slide failed: {outcome.error}")
    for job in jobs[1:]:
        job.h5ad_path.hardlink_to(first.h5ad_path)
        job.metadata_path.hardlink_to(first.metadata_path)
        job.report_path.hardlink_to(first.report_path)
