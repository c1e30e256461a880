"""Let a child process try what can end a process, such as a native library on a damaged file."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence


def signal_that_ends(command: Sequence[str], limit_s: float) -> str | None:
    """Run a command without input and output, and return the signal that ended it.

    Args:
        command: The program and its arguments.
        limit_s: Longest time in seconds.

    Returns:
        The name of the signal; None if no signal ended the program, whatever its status.

    Raises:
        TimeoutError: If the program does not end in time; it is killed.
        OSError: If no process can be started.
    """
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no end within {limit_s:.0f} s") from error
    if ended.returncode >= 0:
        return None
    try:
        return signal.Signals(-ended.returncode).name
    except ValueError:
        return f"signal {-ended.returncode}"
