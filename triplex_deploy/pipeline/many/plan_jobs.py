"""From the slides a caller named to jobs with outputs of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.many.entry import SlideEntry
from triplex_deploy.pipeline.many.job import Job
from triplex_deploy.pipeline.options import PredictOptions


def plan_jobs(
    entries: Sequence[SlideEntry],
    options: PredictOptions,
    out: Path,
    report: bool = True,
    resume: bool = True,
) -> list[Job]:
    """One job per slide, with absolute paths and its own spots and mpp over ``options``.

    Raises ``ConfigError`` where two slides would write the same file, where a file that belongs to
    one slide is given for several, or where a slide's own values contradict the options.
    """
    _require_one_slide(entries, options)
    _require_distinct_outputs(entries)
    folder = _absolute(out)
    return [
        Job(
            slide=_absolute(entry.slide),
            table=folder / f"{entry.output}.h5ad",
            options=_own_options(entry, options),
            report=report,
            resume=resume,
        )
        for entry in entries
    ]


def _own_options(entry: SlideEntry, options: PredictOptions) -> PredictOptions:
    spots = options.spots if entry.spots is None else entry.spots
    try:
        return replace(
            options,
            spots=_absolute(spots) if isinstance(spots, str | Path) else spots,
            mask=None if options.mask is None else _absolute(options.mask),
            cache=None if options.cache is None else _absolute(options.cache),
            mpp=options.mpp if entry.mpp is None else entry.mpp,
        )
    except ConfigError as error:
        raise ConfigError(f"{entry.origin}: {error}") from error


def _require_one_slide(entries: Sequence[SlideEntry], options: PredictOptions) -> None:
    for option in ("spots", "mask"):
        file = getattr(options, option)
        if file is not None and len(entries) > 1:
            raise ConfigError(
                f"--{option} {file}: belongs to one slide; predict {len(entries)} one by one, "
                "or name the spots of each in a manifest"
            )


def _require_distinct_outputs(entries: Sequence[SlideEntry]) -> None:
    origin_of: dict[str, str] = {}
    for entry in entries:
        if entry.output in origin_of:
            raise ConfigError(
                f"{entry.origin}: two slides share this name, and so the output "
                f"{entry.output}.h5ad of {origin_of[entry.output]}; predict them into different "
                "--out folders, or name an output for each in a manifest"
            )
        origin_of[entry.output] = entry.origin


def _absolute(path: str | Path) -> Path:
    """The path as seen from other processes; links stay links, which name the results."""
    return Path(os.path.abspath(path))  # noqa: PTH100
