"""``--log-file``: everything that is logged, with the time and tracebacks, appended to a file."""

from __future__ import annotations

import logging
from pathlib import Path

from triplex_deploy.errors import OutputError

LOGGERS = ("triplex_deploy", "exporters")
"""Of our packages; what other libraries log is not ours to show."""


class LogFile(logging.FileHandler):
    """UTF-8, one line per record and its traceback below; opened at once, in append mode."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8")
        self.setLevel(logging.DEBUG)
        self.setFormatter(
            logging.Formatter(
                "%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
            )
        )


def open_log_file(path: Path, command_line: str) -> None:
    """Append the log of this run to ``path``; raises ``OutputError`` where that cannot be."""
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
        for log_file in [one for one in logger.handlers if isinstance(one, LogFile)]:
            logger.removeHandler(log_file)
            log_file.close()


def is_logging_to_file() -> bool:
    return _log_file() is not None


def note(level: int, text: str, error: BaseException | None = None) -> None:
    """Write a line, and an error's traceback, into the log file alone."""
    log_file = _log_file()
    if log_file is None:
        return
    raised = None if error is None else (type(error), error, error.__traceback__)
    log_file.emit(logging.LogRecord(LOGGERS[0], level, "", 0, text, (), raised))


def _log_file() -> LogFile | None:
    handlers = logging.getLogger(LOGGERS[0]).handlers
    return next((one for one in handlers if isinstance(one, LogFile)), None)
