"""Slides at URLs: find them, and copy them to this machine while they are predicted.

fsspec reads them, with the credentials that its libraries find by themselves. OpenSlide needs
files, and a slide is read in no order that a network is good at, so each is copied as a whole.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from triplex_deploy.errors import ConfigError, OutputError, SlideError, TriplexError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.files.room import require_room, why_unwritable
from triplex_deploy.files.url import shown_url, url_file_name
from triplex_deploy.install import install_command
from triplex_deploy.progress import WallClock
from triplex_deploy.slides.slide_files import DICOM, MIRAX, SLIDE_SUFFIXES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger(__name__)

SEVERAL_FILES: Final = (MIRAX, DICOM, ".vms", ".vmu", ".zarr")
"""Suffixes of slides that are several files, of which a URL names one only."""
MARKERS: Final = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "generation")
"""What a server may say about a file, which changes when the file is replaced."""
PACKAGE: Final = "triplex_deploy"
"""Logger of this package."""
PIECE_BYTES: Final = 1 << 23
"""Bytes that are copied at once."""
MAX_NAME_CHARACTERS: Final = 100
"""Longer names of files are cut at their beginning."""
CHECK: Final = "check the URL and your credentials"


@dataclass(frozen=True)
class RemoteSlide:
    """A slide at a URL, and where it is copied to."""

    url: str
    """The URL; it may hold secrets, so messages show ``name``."""
    state: str
    """Size and version of the file as its server told them; "" if it did not."""
    local: Path
    """The copy, in a folder of its own."""

    @property
    def name(self) -> str:
        """Return the URL without secrets."""
        return shown_url(self.url)


@contextmanager
def at_hand(source: RemoteSlide | None, clock: WallClock) -> Iterator[None]:
    """Copy a slide unless it is copied already, and remove the copy at the end.

    Args:
        source: The slide; None does nothing.
        clock: Receives the seconds that the copy took.

    Raises:
        SlideError: The file cannot be read.
        OutputError: The copy cannot be written.
    """
    if source is None:
        yield
        return
    try:
        with clock.stage("copy slide"):
            fetch(source)
        with _named_by_url(source):
            yield
    finally:
        discard(source)


@contextmanager
def _named_by_url(source: RemoteSlide) -> Iterator[None]:
    """Let the log name the slide by its URL, since the copy is soon gone."""
    handlers = [*logging.getLogger(PACKAGE).handlers, *logging.getLogger().handlers]
    naming = _NamedByUrl(source)
    for handler in handlers:
        handler.addFilter(naming)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(naming)


class _NamedByUrl(logging.Filter):
    def __init__(self, source: RemoteSlide) -> None:
        super().__init__()
        self._source = source

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if str(self._source.local) in text:
            record.msg = text.replace(str(self._source.local), self._source.name)
            record.args = ()
        return True


def fetch(source: RemoteSlide, stop: threading.Event | None = None) -> None:
    """Copy a slide to ``source.local``, or wait for another thread that copies it.

    Args:
        source: The slide.
        stop: Gives up and removes what was copied once it is set.

    Raises:
        SlideError: The file cannot be read.
        OutputError: The copy cannot be written.
    """
    folder = source.local.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own_folder(folder):
            raise OutputError(f"{folder}: others may write there; choose another --stage-dir")
        with exclusive_lock(folder / ".lock", wait=True):
            if not source.local.exists():
                _copy(source, stop)
    except OSError as error:
        why = why_unwritable(error, source.local)
        raise OutputError(f"{folder}: {why}; choose another --stage-dir") from error


def discard(source: RemoteSlide) -> None:
    """Remove the copy of a slide, and its folders if they are empty."""
    shutil.rmtree(source.local.parent, ignore_errors=True)
    with suppress(OSError):  # other slides are there
        source.local.parent.parent.rmdir()


def find_urls(url: str, recursive: bool = False) -> list[tuple[str, str]]:
    """Return the URLs of slides and their states.

    Args:
        url: A file; a folder, ending in ``/``; or a pattern with ``*``.
        recursive: Look below the folder, too.

    Raises:
        ConfigError: A library is missing, nothing is found, or a slide is several files.
    """
    shown = shown_url(url)
    system, path = _file_system(url)
    if not any(mark in path for mark in "*[") and not url.endswith("/"):
        _require_one_file(url)
        if _info(system, path).get("type") == "directory":
            raise ConfigError(f"{shown}: is a folder; end its URL with /")
        return [(url, _state(system, path))]
    pattern = path
    if url.endswith("/"):
        pattern = f"{path.rstrip('/')}/{'**/*' if recursive else '*'}"
    with damage_as(ConfigError, f"{shown}: cannot be listed", CHECK):
        found = sorted(system.glob(pattern))
    slides = [name for name in found if PurePosixPath(name).suffix.lower() in SLIDE_SUFFIXES]
    if not slides:
        raise ConfigError(f"{shown}: no slides there; {CHECK}")
    urls = [system.unstrip_protocol(name) for name in slides]
    for name in urls:
        _require_one_file(name)
    return [(name, _state(system, path)) for name, path in zip(urls, slides, strict=True)]


def folder_of_copies(stage_dir: Path) -> Path:
    """Return the folder of the copies of one run: no other run reads or removes them."""
    return stage_dir / f".triplex-slides-{secrets.token_hex(6)}"


def local_copy(url: str, state: str, folder: Path, number: int) -> RemoteSlide:
    """Return slide ``number`` of a run with the place of its copy below ``folder``."""
    name = url_file_name(url)[-MAX_NAME_CHARACTERS:]
    return RemoteSlide(url, state, folder / str(number) / name)


class Prefetch:
    """Copy the slide after the one that is predicted, in a thread, as a context manager."""

    def __init__(self, sources: list[RemoteSlide]) -> None:
        self._sources = sources
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self, source: RemoteSlide | None) -> None:
        """Tell that the slide ``source`` is predicted now; the next one is copied.

        None is a slide of this machine.
        """
        if source is None:
            return
        self._join()
        following = self._sources.index(source) + 1
        if following < len(self._sources):
            coming = self._sources[following]
            self._thread = threading.Thread(target=self._fetch, args=(coming,), daemon=True)
            self._thread.start()

    def _fetch(self, source: RemoteSlide) -> None:
        try:
            fetch(source, self._stop)
        except TriplexError as error:  # the prediction of this slide will say so
            logger.debug("%s: not copied ahead: %s", source.name, error)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._join()
        for source in self._sources:
            if source.local.parent.exists():
                discard(source)


def _copy(source: RemoteSlide, stop: threading.Event | None) -> None:
    system, path = _file_system(source.url)
    size = _size(system, path)
    if size is not None:
        require_room(source.local, size)
    temporary = source.local.with_name(f".{secrets.token_hex(6)}.tmp")
    copied = 0
    try:
        with temporary.open("xb") as target:
            for piece in _pieces(source, system, path):
                if stop is not None and stop.is_set():
                    raise SlideError(f"{source.name}: stopped while it was copied; run again")
                target.write(piece)
                copied += len(piece)
        if not copied or size not in (None, copied):
            raise SlideError(
                f"{source.name}: {copied} of {size or 'unknown'} bytes arrived; run again"
            )
        temporary.rename(source.local)
    finally:
        temporary.unlink(missing_ok=True)


def _pieces(source: RemoteSlide, system: AbstractFileSystem, path: str) -> Iterator[bytes]:
    with damage_as(SlideError, f"{source.name}: cannot be read", CHECK):
        try:
            file = system.open(path, "rb")
        except FileNotFoundError as error:
            raise SlideError(f"{source.name}: no such file; check the URL") from error
    with file:
        while True:
            with damage_as(SlideError, f"{source.name}: cannot be read to its end", "run again"):
                piece: bytes = file.read(PIECE_BYTES)
            if not piece:
                return
            yield piece


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL and the path in it."""
    shown = shown_url(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigError(f"{shown}: URLs need the package fsspec; {_install()}") from error
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{shown}: a package is missing ({error}); {_install()}") from error
    except Exception as error:  # of any kind: an unknown scheme, a port that is no number
        raise ConfigError(f"{shown}: cannot be used ({error}); {CHECK}") from error
    return system, path


def _install() -> str:
    return f"run `{install_command('remote')}`"


def _info(system: AbstractFileSystem, path: str) -> dict[str, Any]:
    try:
        return dict(system.info(path))
    except Exception as error:  # noqa: BLE001 - of any library; copying the slide reports it
        logger.debug("%s: %s", path, error)
        return {}


def _size(system: AbstractFileSystem, path: str) -> int | None:
    size = _info(system, path).get("size")
    return size if isinstance(size, int) and size > 0 else None


def _state(system: AbstractFileSystem, path: str) -> str:
    info = _info(system, path)
    known = [f"{key}={info[key]}" for key in ("size", *MARKERS) if info.get(key) is not None]
    return ";".join(known)


def _require_one_file(url: str) -> None:
    name = url_file_name(url)
    if not name:
        raise ConfigError(f"{shown_url(url)}: names no file; end a folder with /")
    if name.lower().endswith(SEVERAL_FILES):
        raise ConfigError(f"{shown_url(url)}: such a slide is several files; copy them all first")
