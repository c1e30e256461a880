"""Which slides a caller means: files, folders, globs and manifests."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.many.entry import SlideEntry
from triplex_deploy.pipeline.many.manifest import is_manifest, read_manifest
from triplex_deploy.slides.suffixes import DICOM, SLIDE_SUFFIXES

logger = logging.getLogger(__name__)


def find_slides(arguments: Sequence[str | Path], recursive: bool = False) -> list[SlideEntry]:
    """The slides that ``arguments`` name, in order, each path and manifest line once.

    A folder stands for the slides in it (below it too, where ``recursive``), a pattern for what
    matches it, a ``.csv`` or ``.tsv`` for its rows. A missing file is kept: it fails when its turn
    comes. Raises ``ConfigError`` for an argument that stands for nothing, and for a manifest's
    faults, with their line.
    """
    found: dict[str, SlideEntry] = {}
    for argument in arguments:
        for entry in _expand(Path(argument), recursive):
            found.setdefault(os.path.abspath(entry.origin), entry)  # noqa: PTH100 - links stay
    return list(found.values())


def _expand(path: Path, recursive: bool) -> Iterator[SlideEntry]:
    if path.is_dir():
        yield from _slides_in(path, recursive)
    elif is_manifest(path):
        yield from read_manifest(path)
    elif path.exists() or not glob.has_magic(str(path)):
        yield SlideEntry(path, path.stem, origin=str(path))
    else:
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute ones too
        if not matches:
            raise ConfigError(f"{path}: matches no file; check the pattern")
        for match in matches:
            yield from _expand(Path(match), recursive)


def _slides_in(folder: Path, recursive: bool) -> Iterator[SlideEntry]:
    files = sorted(_files(folder, recursive))
    slides = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    dicom = sum(path.suffix.lower() == DICOM for path in files)
    if dicom:
        logger.warning(
            "%s: %d DICOM files left out, since several make one slide; name one file of each",
            folder,
            dicom,
        )
    if not slides:
        remedy = "name the files" if recursive else "--recursive looks below it"
        raise ConfigError(f"{folder}: no slides in this folder; {remedy}")
    for path in slides:
        yield SlideEntry(path, path.stem, origin=str(path))


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    """Files that are not hidden; the folder of data beside a MIRAX slide is part of that slide."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in entries:
        if path.is_file():
            yield path
        elif recursive and path.is_dir() and not path.with_name(f"{path.name}.mrxs").exists():
            yield from _files(path, recursive)
