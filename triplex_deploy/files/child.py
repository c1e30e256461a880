"""Let a child process try what can end a process, such as a native library on a damaged file."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

WAITING_FACTOR: Final = 4.0
"""How much longer than its limit of CPU time a program may take on a busy machine."""


def signal_that_ends(command: Sequence[str], limit_s: float) -> str | None:
    """Run a command without input and output, and return the signal that ended it.

    Args:
        command: The program and its arguments.
        limit_s: Longest CPU time in seconds. The time on the clock may be ``WAITING_FACTOR`` times
            as long, so that a busy machine does not make a sound file look damaged.

    Returns:
        The name of the signal; None if no signal ended the program, whatever its status.

    Raises:
        TimeoutError: If the program does not end in time; it is killed.
        OSError: If no process can be started.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            _limit_cpu_time(child.pid, limit_s)
            status = child.wait(limit_s * WAITING_FACTOR)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"no end within {limit_s * WAITING_FACTOR:.0f} s") from error
        finally:
            child.kill()  # does nothing to a program that has ended
    if status == -signal.SIGXCPU:
        raise TimeoutError(f"no end within {limit_s:.0f} s of CPU time")
    if status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _limit_cpu_time(pid: int, limit_s: float) -> None:
    """Let the system end a process after so much CPU time; the hard limit of its parent stays."""
    seconds = max(1, round(limit_s))
    if not hasattr(resource, "prlimit"):  # macOS
        return
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
        resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, hard))
    except (OSError, ValueError):
        return  # it has ended already, or has a lower limit
