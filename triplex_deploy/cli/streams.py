"""Print lines so that names cannot forge them, and a stream that is gone cannot stop the work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

import click

from triplex_deploy.errors import OutputError
from triplex_deploy.files.escape import printable


def prepare_streams() -> None:
    """Open closed standard streams, and let both write any name; called once per process.

    A closed stream would give its number to the next file that is opened, and the text to the
    other stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def settle_streams() -> None:
    """Flush both streams; what cannot be written is dropped, so that Python exits quietly."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def note_line(text: str) -> None:
    """Print a line on stderr, escaped; a stderr that cannot be written is ignored."""
    with suppress(OSError, ValueError):
        click.echo(printable(text), err=True)


def print_line(text: str) -> None:
    """Print a line of results on stdout; cells are escaped apart from the tabs between them.

    Raises:
        OutputError: If stdout cannot be written.
    """
    print_text("\t".join(map(printable, text.split("\t"))))


def print_text(text: str, end: str = "\n") -> None:
    """Print text on stdout as it is, such as JSON.

    A reader that stops reading, such as ``head``, is no failure: the rest is dropped.

    Raises:
        OutputError: If stdout cannot be written.
    """
    stdout: TextIO = sys.stdout
    try:
        click.echo(text + end, file=stdout, nl=False)
    except BrokenPipeError:
        return
    except OSError as error:
        raise OutputError(
            f"standard output: cannot be written ({error.strerror or error}); "
            "files that were written are complete"
        ) from error
