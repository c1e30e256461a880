"""Predict many slides with one call from Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from triplex_deploy.bundle import is_bundle
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs, write_index
from triplex_deploy.cohort.inputs import find_slides
from triplex_deploy.cohort.job import Job, Outcome, plan_jobs
from triplex_deploy.cohort.slide_worker import ModelOpener
from triplex_deploy.errors import OutputError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import Progress, shown
from triplex_deploy.runtime.model import load_bundle


def predict_slides(
    slides: str | Path | Sequence[str | Path],
    bundle: str | Path,
    out: str | Path,
    options: PredictOptions | None = None,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str | None = None,
    executor: str = "local",
    workers: int | None = None,
    recursive: bool = False,
    resume: bool = True,
    report: bool = True,
    stage_dir: str | Path | None = None,
    gpu_memory_gb: float | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Predict slides and write an h5ad, a JSON and an HTML file for each, as the command does.

    A slide that fails is one of the results and does not stop the others. With several workers,
    call this from a script below ``if __name__ == "__main__":``, as new processes import it.

    Args:
        slides: Files, folders, patterns such as ``"scans/*.svs"``, or slide lists (.csv, .tsv).
        bundle: Folder of the bundle.
        out: Folder of the results; it is made if needed.
        options: Options of all slides, None for the defaults.
        device: ``auto``, ``cpu`` or ``cuda:N``; ``cuda:all`` or a list such as ``cuda:0,cuda:2``
            for one worker on each GPU.
        backend: ``auto``, ``onnxruntime``, ``openvino`` or ``tensorrt``.
        precision: On a CPU ``fp32``, ``bf16``, ``int8`` or ``auto``; None is the precision of the
            bundle.
        executor: ``local`` for this machine, ``ray`` for a Ray cluster.
        workers: Number of worker processes; None for 1, or with Ray for as many as fit.
        recursive: Look for slides below the folders, too.
        resume: Keep complete results, and go on with slides that were interrupted.
        report: Write an HTML report for each slide, and an index for several slides.
        stage_dir: Folder to which slides at URLs are copied; None for ``out``.
        gpu_memory_gb: Most memory of each GPU for tensors, beside the weights; None for all.
        progress: Print the progress of each slide on stderr.

    Returns:
        One result per slide, in the order of ``slides``; ``result.read()`` is its prediction.

    Raises:
        ConfigError: If a slide or an option is not valid, or two slides have the same output.
        BundleError: If the bundle cannot be opened.
        BackendError: If the device or backend cannot be used.
        OutputError: If ``out`` cannot be made, or is a bundle.
    """
    arguments = [slides] if isinstance(slides, str | Path) else slides
    choice = ExecutorChoice(executor, workers)
    folder, options = Path(out), options or PredictOptions()
    jobs = plan_jobs(
        find_slides(arguments, recursive),
        options,
        folder,
        report,
        resume,
        precision,
        None if stage_dir is None else Path(stage_dir),
    )
    loaded = load_bundle(bundle)
    if is_bundle(folder):
        raise OutputError(f"{folder}: is a bundle; choose another folder for the predictions")
    opener = ModelOpener(
        Path(bundle).absolute(),
        device,
        backend,
        options.threads,
        precision,
        gpu_memory_gb=gpu_memory_gb,
    )
    outcomes = run_jobs(jobs, loaded, partial(choice.make, opener, _Watcher(progress)))
    outcome_of = {outcome.job.h5ad_path: outcome for outcome in outcomes}
    found = [outcome_of[job.h5ad_path] for job in jobs]
    if report and len(jobs) > 1:
        write_index(found, folder)
    return found


class _Watcher:
    """A ``Watcher`` that prints lines, or shows nothing."""

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._of_slide: dict[str, Progress] = {}

    def progress(self, job: Job) -> Progress:
        """Return where the stages of the job are reported."""
        return self._of_slide.setdefault(job.key, shown(self._is_shown, job.slide.name))
