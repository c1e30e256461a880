"""Describe the prediction of one slide and its result; both are sent between processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from triplex_deploy.cohort.inputs import SlideEntry
from triplex_deploy.cohort.remote import RemoteSlide, folder_of_copies, local_copy
from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.options import PredictOptions

MAX_NAME_BYTES: Final = 255

Status = Literal["done", "skipped", "failed", "elsewhere"]
"""``skipped``: complete already. ``elsewhere``: another process holds the lock."""


@dataclass(frozen=True, repr=False)
class Job:
    """Predict one slide into three files of one folder that differ in their suffix."""

    slide: Path
    """File of the slide, an absolute path."""
    h5ad_path: Path
    """Where the prediction is written, an absolute path."""
    options: PredictOptions
    """Options of the prediction, with paths that are absolute."""
    report: bool = True
    """Write a report as well."""
    resume: bool = True
    """Keep complete results, and use features that an earlier run has saved."""
    wait: bool = False
    """Wait for a slide that another process works on."""
    following: Job | None = field(default=None, compare=False)
    """The job that this process runs next, if that is known."""
    precision: str | None = None
    """Precision of the run; None is that of the bundle, and ``auto`` accepts any."""
    source: RemoteSlide | None = None
    """Where the slide is copied from, if it is at a URL; ``slide`` is the copy."""

    def __repr__(self) -> str:
        return f"<Job: {self.slide} into {self.h5ad_path}>"

    @property
    def key(self) -> str:
        """Return the path or URL of the slide, for messages."""
        return str(self.slide) if self.source is None else self.source.name

    @property
    def metadata_path(self) -> Path:
        """Return the path of the metadata of the run, a JSON file."""
        return self.h5ad_path.with_name(f"{self.h5ad_path.stem}.json")

    @property
    def report_path(self) -> Path:
        """Return the path of the report, an HTML file."""
        return self.h5ad_path.with_name(f"{self.h5ad_path.stem}.html")

    @property
    def lock_path(self) -> Path:
        """Return the file that a process locks before it writes the results."""
        return self._hidden("lock")

    @property
    def work_dir(self) -> Path:
        """Folder of unfinished files; only the process that holds the lock may change it."""
        return self._hidden("part")

    def _hidden(self, ending: str) -> Path:
        name = f".{self.h5ad_path.stem}.{ending}"
        encoded = os.fsencode(name)
        if len(encoded) > MAX_NAME_BYTES:
            name = f".{hashlib.sha256(encoded).hexdigest()}.{ending}"
        return self.h5ad_path.with_name(name)


@dataclass(frozen=True, repr=False)
class Outcome:
    """Result of one job, returned for failed jobs as well."""

    job: Job
    """The job, with the options it was run with."""
    status: Status
    """``done``, ``skipped`` (complete already), ``failed`` or ``elsewhere``."""
    seconds: float
    """Wall time of the job in seconds."""
    metadata: dict[str, Any] | None = None
    """Metadata of the run if the results are complete, otherwise None."""
    error: str | None = None
    """What went wrong, on one line; None for complete results."""
    traceback: str | None = None
    """Python's traceback of an unexpected error."""
    messages: tuple[tuple[int, str], ...] = ()
    """Log records of another process as (level, text)."""

    def __repr__(self) -> str:
        spots = "" if self.metadata is None else f", {self.metadata.get('spots')} spots"
        why = "" if self.error is None else f", {self.error}"
        return f"<{self.job.slide.name}: {self.status}{spots}{why}, {self.seconds:.1f} s>"

    def read(self) -> Prediction:
        """Read the prediction from its h5ad.

        Raises:
            OutputError: The slide failed, or the file was altered since.
        """
        if self.metadata is None:
            raise OutputError(
                f"{self.job.slide}: has no prediction: {self.error}; predict it first"
            )
        return read_prediction(self.job.h5ad_path)

    @property
    def is_complete(self) -> bool:
        """True if the slide's results are complete: ``done`` or ``skipped``."""
        return self.metadata is not None


def plan_jobs(
    entries: Sequence[SlideEntry],
    options: PredictOptions,
    out: Path,
    report: bool = True,
    resume: bool = True,
    precision: str | None = None,
    stage_dir: Path | None = None,
) -> list[Job]:
    """Return one job per slide; paths become absolute.

    Args:
        entries: The slides; spots and mpp of an entry replace those of ``options``.
        options: Options of all slides.
        out: Folder of the results.
        report: Write a report for every slide.
        resume: Keep complete results, and use saved features.
        precision: Precision that complete results must have, see ``Job.precision``.
        stage_dir: Folder to which slides at URLs are copied; None for the one of the results.

    Raises:
        ConfigError: If two slides would write the same file, if a file that belongs to one slide
            is given for several, or if values of an entry contradict the options.
    """
    _require_one_slide(entries, options)
    _require_distinct_outputs(entries)
    folder = _absolute(out)
    copies = folder_of_copies(folder if stage_dir is None else _absolute(stage_dir))
    sources = [
        None if entry.url is None else local_copy(entry.url, entry.state, copies, number)
        for number, entry in enumerate(entries)
    ]
    return [
        Job(
            slide=_absolute(entry.slide) if source is None else source.local,
            h5ad_path=folder / f"{entry.output}.h5ad",
            options=_own_options(entry, options),
            report=report,
            resume=resume,
            precision=precision,
            source=source,
        )
        for entry, source in zip(entries, sources, strict=True)
    ]


def _own_options(entry: SlideEntry, options: PredictOptions) -> PredictOptions:
    spots = options.spots if entry.spots is None else entry.spots
    try:
        return replace(
            options,
            spots=_absolute(spots) if isinstance(spots, str | Path) else spots,
            mask=None if options.mask is None else _absolute(options.mask),
            alignment=None if options.alignment is None else _absolute(options.alignment),
            cache=None if options.cache is None else _absolute(options.cache),
            mpp=options.mpp if entry.mpp is None else entry.mpp,
        )
    except ConfigError as error:
        raise ConfigError(f"{entry.origin}: {error}") from error


def _require_one_slide(entries: Sequence[SlideEntry], options: PredictOptions) -> None:
    for option in ("spots", "mask", "alignment"):
        file = getattr(options, option)
        if file is not None and len(entries) > 1:
            raise ConfigError(
                f"--{option} {file}: belongs to one slide; predict each of the {len(entries)} "
                "slides in its own call, or give the spots of each slide in a slide list (.csv)"
            )


def _require_distinct_outputs(entries: Sequence[SlideEntry]) -> None:
    origin_of: dict[str, str] = {}
    for entry in entries:
        if entry.output in origin_of:
            raise ConfigError(
                f"{entry.origin}: two slides share this name, and so the output "
                f"{entry.output}.h5ad of {origin_of[entry.output]}; predict them into different "
                "--out folders, or give an output for each slide in a slide list (.csv)"
            )
        origin_of[entry.output] = entry.origin


def _absolute(path: str | Path) -> Path:
    """Return an absolute path; links are not resolved, as their names become the results' names."""
    return Path(os.path.abspath(path))  # noqa: PTH100
