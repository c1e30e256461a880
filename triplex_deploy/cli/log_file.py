"""Append everything that is logged, with times and tracebacks, to the file of ``--log-file``."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from triplex_deploy.cli.streams import note_line
from triplex_deploy.errors import OutputError
from triplex_deploy.files.escape import printable

LOGGERS = ("triplex_deploy", "exporters")
"""Loggers that are shown and written; those of other libraries are not."""


class LogFile(logging.FileHandler):
    """Writes one line per record, and its traceback below, as UTF-8 at the end of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8")
        self.setLevel(logging.DEBUG)
        self.setFormatter(
            _OneLine(
                "%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
            )
        )
        self._has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say once on stderr that the log cannot be written; the run goes on."""
        error = sys.exc_info()[1]
        if self._has_failed:
            return
        self._has_failed = True
        reason = getattr(error, "strerror", None) or error
        note_line(f"warning: {self.baseFilename}: the log cannot be written ({reason})")

    def close(self) -> None:
        """Close the file; an error is ignored, because the user was warned already."""
        with suppress(OSError):
            super().close()


class _OneLine(logging.Formatter):
    """Writes each record as one line without control characters, and tracebacks below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line of a record; its text cannot look like another record."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return a traceback; a line that could look like a record, with its date, is indented."""
        lines = map(printable, super().formatException(ei).splitlines())
        return "\n".join(f"    {line}" if line[:1].isdigit() else line for line in lines)


def open_log_file(path: Path, command_line: str) -> None:
    """Append the log of this run to a file; raises ``OutputError`` if it cannot be opened."""
    try:
        log_file = LogFile(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be opened as a log ({error.strerror or error}); "
            "choose another --log-file"
        ) from error
    close_log_file()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(log_file)
        logger.setLevel(logging.DEBUG)
    note(logging.INFO, command_line)


def close_log_file() -> None:
    """Stop writing to the log file, if there is one."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for log_file in [h for h in logger.handlers if isinstance(h, LogFile)]:
            logger.removeHandler(log_file)
            log_file.close()


def is_logging_to_file() -> bool:
    """Return True if there is a log file."""
    return _log_file() is not None


def note(level: int, text: str, error: BaseException | None = None) -> None:
    """Write a line, and the traceback of an error, to the log file only."""
    log_file = _log_file()
    if log_file is None:
        return
    raised = None if error is None else (type(error), error, error.__traceback__)
    log_file.handle(logging.LogRecord(LOGGERS[0], level, "", 0, text, (), raised))


def _log_file() -> LogFile | None:
    handlers = logging.getLogger(LOGGERS[0]).handlers
    return next((handler for handler in handlers if isinstance(handler, LogFile)), None)
