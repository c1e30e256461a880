"""Define what every command shares: verbosity, logging to stderr, and the summary on stdout."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from triplex_deploy.cli.config_file import PROJECT_FILE, announce_defaults, set_by_working_folder
from triplex_deploy.cli.log_file import LOGGERS, is_logging_to_file, open_log_file
from triplex_deploy.cli.streams import note_line, print_line, print_text
from triplex_deploy.errors import one_line
from triplex_deploy.install import install_command
from triplex_deploy.version import __version__

Command = TypeVar("Command", bound=Callable[..., Any])

EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "encoders",
    "timm": "encoders",
    "torchvision": "encoders",
    "lightning_fabric": "train",
    "yaml": "train",
    "h5py": "train",
    "matplotlib": "plots",
    "spatialdata": "files",
    "ray": "cluster",
    "fsspec": "remote",
    "zarr": "zarr",
}
"""The extra of this package that installs a library."""
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def common_options(command: Command) -> Command:
    """Add ``--json``, ``-v``, ``-q`` and ``--log-file`` to a command."""
    return verbosity_options(
        click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout."
        )(command)
    )


def verbosity_options(command: Command) -> Command:
    """Add ``-v``, ``-q`` and ``--log-file``, which take effect when they are parsed."""
    command = click.option(
        "--log-file",
        type=click.Path(path_type=Path),
        expose_value=False,
        is_eager=True,
        callback=_start_log_file,
        help="Append the whole log, with times and tracebacks, to this file.",
    )(_announcing(command))
    command = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        is_eager=True,
        callback=lambda _ctx, _param, count: set_verbosity(count) if count else None,
        help="Show more of the log; -vv adds tracebacks.",
    )(command)
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=lambda _ctx, _param, quiet: set_verbosity(-1) if quiet else None,
        help="Show errors only, no progress.",
    )(command)


def set_verbosity(level: int) -> None:
    """Choose how much of the log is shown: -1 errors, 0 warnings, 1 information, 2 everything."""
    shown = _LEVELS[min(level, 2)]
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if is_logging_to_file() else shown)
        for handler in logger.handlers:
            if isinstance(handler, _StderrHandler):
                handler.setLevel(shown)


def screen_level() -> int:
    """Return the level from which the log is shown on stderr; a log file always gets everything."""
    handlers = logging.getLogger("triplex_deploy").handlers
    shown = (handler.level for handler in handlers if isinstance(handler, _StderrHandler))
    return next(shown, logging.WARNING)


def start_logging() -> None:
    """Show warnings of this package on stderr; called once per command."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler())
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the error that is raised says more
    set_verbosity(0)


def is_quiet() -> bool:
    """Return True if only errors are shown."""
    return screen_level() > logging.WARNING


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural, such as ``1 spot`` and ``2 spots``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_summary(as_json: bool, summary: Mapping[str, Any], lines: list[str]) -> None:
    """Print the summary as JSON, or the lines unless the command is quiet."""
    if as_json:
        print_json(summary)
        return
    if not is_quiet():
        for line in lines:
            print_line(line)


def print_json(summary: Mapping[str, Any]) -> None:
    """Print the summary as JSON on stdout."""
    print_text(json.dumps(summary, indent=2))


def command_line(ctx: click.Context) -> str:
    """Return the command line as it was typed, for files that record how they were made."""
    return shlex.join(["triplex-deploy", *(ctx.obj or ())])


def missing_module(error: ModuleNotFoundError) -> str:
    """Return the message for a missing library, with the extra that installs it."""
    extra = EXTRA_OF.get((error.name or "").partition(".")[0])
    if extra is None:
        return one_line(error)
    return f"{error.name} is not installed; run `{install_command(extra)}`"


def _start_log_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is not None and not ctx.resilient_parsing:
        open_log_file(path, f"triplex-deploy {__version__}: {command_line(ctx)}")


def _announcing(command: Command) -> Command:
    """Return the command, which first logs the options that were not set by its command line."""

    @wraps(command)
    def announced(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        announce_defaults(context)
        chosen = set_by_working_folder(context)
        if chosen and not is_quiet():
            note_line(f"{PROJECT_FILE} in this folder sets {chosen}")
        return command(*args, **kwargs)

    return announced  # type: ignore[return-value]


class _StderrHandler(logging.Handler):
    """Writes ``warning: TEXT`` to the current stderr, which progress bars may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        label = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        note_line(f"{label}{text}")
