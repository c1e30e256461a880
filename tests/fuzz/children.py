"""Call a function in a forked child with limits of time and memory, and report how it ended."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.field.child import PATIENCE, UNEXPECTED
from triplex_deploy.errors import TriplexError
from triplex_deploy.files import hdf5_child, hdf5_look
from triplex_deploy.files.child import signal_that_ends
from triplex_deploy.slides import first_look, first_look_child

MAX_SECONDS = 20.0 * PATIENCE
"""Seconds after which a child counts as hung."""
MEMORY = 2 << 30
"""Bytes of address space that a child may take on top of what it was forked with."""
LONG_MESSAGE = 2000
"""Characters beyond which an error is no line that a person reads."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    kind: str
    """``read``, ``refused``, ``unexpected``, ``signal``, ``hang`` or ``memory``."""
    detail: str
    """The digest of what was read, or the message."""
    seconds: float
    """Wall time."""


def call_in_child(function: Callable[[], str], max_seconds: float = MAX_SECONDS) -> Ended:
    """Call ``function`` in a forked child, which returns a digest of what it read."""
    start = time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(function, writer)
    os.close(writer)
    content = _received(reader, pid, start + max_seconds)
    os.close(reader)
    if content is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return Ended("hang", f"killed after {max_seconds:g} s", time.monotonic() - start)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if code < 0:
        return Ended("signal", signal.Signals(-code).name, seconds)
    if not content:
        return Ended("signal", f"the child ended with status {code}", seconds)
    kind, detail = pickle.loads(content)
    return Ended(kind, detail, seconds)


def fork_first_looks() -> None:
    """Let what looks at a file first run in a fork of this process, not in a new interpreter.

    It is a process of its own all the same; what is saved is the start of Python and the imports,
    which take longer than all the rest. The libraries must be imported before.
    """
    _look_with(_signal_that_ends_a_fork)


def start_first_looks() -> None:
    """Let what looks at a file first run in a new interpreter, as it does for users."""
    _look_with(signal_that_ends)


def _look_with(run: Callable[[Sequence[str], float], str | None]) -> None:
    for module in (first_look, hdf5_look):
        setattr(module, signal_that_ends.__name__, run)


def _signal_that_ends_a_fork(command: Sequence[str], limit_s: float) -> str | None:
    """Do what ``signal_that_ends`` does, by the function that the program calls."""
    programs: dict[str, Callable[..., None]] = {
        str(first_look.CHILD): _look_at_slide,
        str(hdf5_look.CHILD): _look_at_hdf5,
    }
    place = next(place for place, word in enumerate(command) if word in programs)
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(max(1, round(limit_s)))
            programs[command[place]](*command[place + 1 :])
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        raise TimeoutError(f"no end within {limit_s:.0f} s")
    return signal.Signals(-code).name if code < 0 else None


def _look_at_slide(library: str, slide: str) -> None:
    first_look_child.main(library, os.fsencode(slide))


def _look_at_hdf5(path: str, *groups: str) -> None:
    hdf5_child.main(path, list(groups))


def _received(reader: int, pid: int, until: float) -> bytes | None:
    """Return what the child wrote until it ended; None if its time was up."""
    content = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        block = os.read(reader, 1 << 16)
        if not block:
            return content
        content += block


def _child(function: Callable[[], str], writer: int) -> None:
    """Call, write the result, and end without running the parent's clean-up."""
    status = 0
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()  # a signal is what is looked for, and is reported
        limit = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        answer = _called(function)
        os.write(writer, pickle.dumps(answer))
    except BaseException:  # noqa: BLE001 - whatever happens, this process must end here
        status = 70
    finally:
        os._exit(status)


def _called(function: Callable[[], str]) -> tuple[str, str]:
    try:
        return "read", function()
    except TriplexError as error:
        message = str(error)
        if "\n" in message or len(message) > LONG_MESSAGE or UNEXPECTED.search(message):
            return "unexpected", f"not a line for people: {message[:300]!r}"
        return "refused", message
    except MemoryError:
        return "memory", traceback.format_exc(limit=-2)[-400:]
    except BaseException as error:  # noqa: BLE001 - what the command line calls unexpected
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "triplex_deploy" in frame.filename]
        where = f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else "?"
        return "unexpected", f"{type(error).__name__}: {str(error)[:200]} at {where}"


def _address_space() -> int:
    with open("/proc/self/statm") as stream:  # noqa: PTH123 - read in a child, without imports
        return int(stream.read().split()[0]) * resource.getpagesize()
