"""Sign what is kept for later runs, so that only what this installation wrote is taken from there.

The key lies in the user's state folder, and only the user may read it. A digest finds damage; a
signature also finds what somebody else has put there.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from triplex_deploy.errors import OutputError
from triplex_deploy.files.ours import is_own_folder
from triplex_deploy.system import state_folder

logger = logging.getLogger(__name__)

KEY_FILE: Final = "key"
"""Name of the key in the state folder."""
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 32
"""Length of the signature before signed bytes."""


def signature(purpose: str, *parts: str | bytes) -> str:
    """Return the HMAC-SHA256 of some content, with this installation's key.

    Args:
        purpose: What the content is for; a signature is of no use for another purpose.
        parts: The content.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(purpose, parts).hex()


def is_signed(given: object, purpose: str, *parts: str | bytes) -> bool:
    """Return True if ``given`` is the ``signature`` of this content."""
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(), signature(purpose, *parts).encode()
    )


def sign_bytes(purpose: str, content: bytes) -> bytes:
    """Return the content of a file, after its signature."""
    return _digest(purpose, (content,)) + content


def signed_content(purpose: str, signed: bytes) -> bytes | None:
    """Return what ``sign_bytes`` was given; None if it did not sign it here, or it was altered."""
    given, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    return content if hmac.compare_digest(given, _digest(purpose, (content,))) else None


def _digest(purpose: str, parts: tuple[str | bytes, ...]) -> bytes:
    mac = hmac.new(_key(state_folder()), digestmod=hashlib.sha256)
    for part in (purpose, *parts):
        content = part.encode() if isinstance(part, str) else part
        mac.update(len(content).to_bytes(8, "big") + content)
    return mac.digest()


@functools.cache
def _key(folder: Path) -> bytes:
    """Return the key in ``folder``, which is made if there is none.

    Where it cannot be kept, each process has a key of its own.
    """
    path = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_own_folder(folder):
            raise OutputError(f"{folder} belongs to another user, or others may write into it")
        if not os.path.lexists(path):
            _make(path)
        return _read(path)
    except (OSError, OutputError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(
            "%s: no key can be kept (%s), so nothing that an earlier run kept is used; "
            "set XDG_STATE_HOME to a folder of your own",
            path,
            reason,
        )
        return secrets.token_bytes(KEY_BYTES)


def _make(path: Path) -> None:
    """Write a new key that only this user may read, unless another process was faster."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    handle = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        _give_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _give_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        temporary.rename(path)


def _read(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        is_private = status.st_uid == os.getuid() and not status.st_mode & 0o077
        if not (stat.S_ISREG(status.st_mode) and is_private):
            raise OutputError("others own it or may read it; remove it")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise OutputError("it is damaged; remove it")
    return key
