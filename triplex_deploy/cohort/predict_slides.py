"""Predict many slides with one call from Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
    choices = {
        "device": device,
        "backend": backend,
        "precision": precision,
        "executor": executor,
        "workers": workers,
        "recursive": recursive,
        "resume": resume,
        "report": report,
        "stage_dir": stage_dir,
        "gpu_memory_gb": gpu_memory_gb,
        "progress": progress,
    }
    jobs, outcomes = _start(slides, Path(bundle), Path(out), options, choices)
    outcome_of = {outcome.job.h5ad_path: outcome for outcome in outcomes}
    found = [outcome_of[job.h5ad_path] for job in jobs]
    if report and len(jobs) > 1:
        write_index(found, Path(out))
    return found


def iter_slides(
    slides: str | Path | Sequence[str | Path],
    bundle: str | Path,
    out: str | Path,
    options: PredictOptions | None = None,
    **choices: Any,
) -> Iterator[Outcome]:
    """Do what ``predict_slides`` does, and yield each slide's result as soon as it is complete.

    Args:
        slides: As of ``predict_slides``.
        bundle: As of ``predict_slides``.
        out: As of ``predict_slides``.
        options: As of ``predict_slides``.
        choices: Any other argument of ``predict_slides``, by its name.

    Yields:
        One result per slide, in any order. The index of several slides is written at the end.

    Raises:
        TypeError: If ``predict_slides`` has no such argument.
        TriplexError: As of ``predict_slides``.
    """
    known = dict(predict_slides.__kwdefaults__ or {})
    unknown = choices.keys() - known.keys()
    if unknown:
        raise TypeError(f"iter_slides: no argument {min(unknown)!r}; use {', '.join(known)}")
    chosen = {**known, **choices}
    jobs, outcomes = _start(slides, Path(bundle), Path(out), options, chosen)
    return _until_complete(jobs, outcomes, Path(out) if chosen["report"] else None)


def _until_complete(
    jobs: Sequence[Job], outcomes: Iterator[Outcome], folder: Path | None
) -> Iterator[Outcome]:
    """Yield the outcomes, and write the index of several slides into ``folder`` at the end."""
    outcome_of = {}
    for outcome in outcomes:
        outcome_of[outcome.job.h5ad_path] = outcome
        yield outcome
    if folder is not None and len(jobs) > 1:
        write_index([outcome_of[job.h5ad_path] for job in jobs], folder)


def _start(
    slides: str | Path | Sequence[str | Path],
    bundle: Path,
    out: Path,
    options: PredictOptions | None,
    choices: Mapping[str, Any],
) -> tuple[list[Job], Iterator[Outcome]]:
    """Return the jobs of all slides, and their outcomes, which are predicted when asked for."""
    arguments = [slides] if isinstance(slides, str | Path) else slides
    choice = ExecutorChoice(choices["executor"], choices["workers"])
    options, stage_dir = options or PredictOptions(), choices["stage_dir"]
    jobs = plan_jobs(
        find_slides(arguments, choices["recursive"]),
        options,
        out,
        choices["report"],
        choices["resume"],
        choices["precision"],
        None if stage_dir is None else Path(stage_dir),
    )
    loaded = load_bundle(bundle)
    if is_bundle(out):
        raise OutputError(f"{out}: is a bundle; choose another folder for the predictions")
    opener = ModelOpener(
        bundle.absolute(),
        choices["device"],
        choices["backend"],
        options.threads,
        choices["precision"],
        gpu_memory_gb=choices["gpu_memory_gb"],
    )
    watcher = _Watcher(choices["progress"])
    return list(jobs), run_jobs(jobs, loaded, partial(choice.make, opener, watcher))


class _Watcher:
    """A ``Watcher`` that prints lines, or shows nothing."""

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._of_slide: dict[str, Progress] = {}

    def progress(self, job: Job) -> Progress:
        """Return where the stages of the job are reported."""
        return self._of_slide.setdefault(job.key, shown(self._is_shown, job.slide.name))
