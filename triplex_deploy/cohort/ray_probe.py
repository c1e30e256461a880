"""Ask whether a Ray cluster lets this user in, before this process joins it.

Ray 2.60 protects a cluster with a token. Without it, ``ray.init`` tries for twenty seconds and then
says only that it cannot connect; the reason is among the lines that its C++ part writes to stderr.
A process of its own can be read, and ended at the first such line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from triplex_deploy.errors import BackendError

PATIENCE_S: Final = 30.0
"""Most seconds that joining may take."""
REFUSED: Final = "InvalidAuthToken"
"""What Ray writes where the token is missing or wrong."""
JOIN: Final = """
import ray
ray.init(address={address!r}, log_to_driver=False, logging_level="error")
ray.shutdown()
"""
_LOG_PREFIX: Final = re.compile(r"^\[[^\]]*\] \S+: ")
TOKEN_REMEDY: Final = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or copy ~/.ray/auth_token from the machine that "
    "started it"
)


def require_admission() -> None:
    """Raise ``BackendError`` if the cluster that Ray would join does not let this user in.

    Does nothing if Ray would start a cluster of its own.
    """
    address = os.environ.get("RAY_ADDRESS") or _on_this_machine()
    if not address or address == "local":
        return
    join = JOIN.format(address=address)
    with subprocess.Popen(
        [sys.executable, "-c", join],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            last = _read(process, address)
        finally:
            watchdog.cancel()
            process.kill()
    if process.returncode:
        raise BackendError(
            f"Ray cluster at {address}: does not answer ({last or 'no reason given'}); check that "
            "it runs and that RAY_ADDRESS is right, or unset RAY_ADDRESS to start one here"
        )


def _read(process: subprocess.Popen[str], address: str) -> str:
    """Return the last line of an error; raise ``BackendError`` at the first refusal."""
    last = ""
    assert process.stderr is not None
    for line in process.stderr:
        if REFUSED in line:
            raise BackendError(f"Ray cluster at {address}: wants a token; {TOKEN_REMEDY}")
        last = _LOG_PREFIX.sub("", line).strip() or last
    process.wait()
    return last


def _on_this_machine() -> str | None:
    """Return the address that Ray has noted for this machine, as ``ray.init`` reads it."""
    folder = os.environ.get("RAY_TMPDIR") or "/tmp/ray"
    try:
        return Path(folder, "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
