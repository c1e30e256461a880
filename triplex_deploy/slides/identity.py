"""Know whether a file is still the one that was opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from triplex_deploy.errors import SlideError
from triplex_deploy.slides.slide_files import companions, slide_digest


@dataclass(frozen=True)
class FileIdentity:
    """What changes if a file is replaced or written to."""

    device: int
    """Number of the file system."""
    inode: int
    """Number of the file in the file system."""
    size: int
    """Size in bytes."""
    changed_ns: int
    """Time of the last change of the content, in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Return the identity of the file at ``path``; raises ``OSError``."""
        status = path.stat()
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def identity_of(path: Path) -> tuple[FileIdentity, ...]:
    """Return the identities of a slide's files: the file at ``path``, then its companions.

    Raises:
        SlideError: A file is gone or cannot be reached.
    """
    try:
        return tuple(FileIdentity.of(part) for part in (path, *companions(path)))
    except OSError as error:
        raise SlideError(
            f"{path}: the file went away while it was read: {error.strerror}; "
            "put it back and run again"
        ) from error


def require_same_files(path: Path, opened: tuple[FileIdentity, ...]) -> None:
    """Raise ``SlideError`` if a file of a slide was replaced or written to since it was opened.

    Args:
        path: The slide.
        opened: What ``identity_of`` returned before the slide was opened.

    Raises:
        SlideError: The file is not the same, or is gone.
    """
    if identity_of(path) != opened:
        raise SlideError(f"{path}: the file was replaced while it was read; run again")


def digest_of_opened(path: Path, opened: tuple[FileIdentity, ...]) -> str:
    """Return the digest of the content that was opened.

    Args:
        path: The slide.
        opened: What ``identity_of`` returned before the slide was opened.

    Returns:
        The digest, see ``slide_digest``.

    Raises:
        SlideError: The file was replaced, written to or removed, so that the digest may be of
            another content.
    """
    try:
        digest = slide_digest(path)
    except OSError as error:
        raise SlideError(
            f"{path}: cannot be read again: {error.strerror}; put the file back and run again"
        ) from error
    require_same_files(path, opened)
    return digest
