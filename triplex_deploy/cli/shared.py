"""Options every command has: verbosity, logging to stderr, and the JSON summary on stdout."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from triplex_deploy.cli.config_file import announce_defaults
from triplex_deploy.cli.log_file import LOGGERS, is_logging_to_file, open_log_file
from triplex_deploy.errors import one_line
from triplex_deploy.version import __version__

Command = TypeVar("Command", bound=Callable[..., Any])

EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "lightning": "train",
    "yaml": "train",
    "h5py": "train",
    "matplotlib": "plots",
    "pyarrow": "files",
    "spatialdata": "files",
    "ray": "cluster",
}
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def common_options(command: Command) -> Command:
    """Add ``--json``, ``-v``, ``-q`` and ``--log-file``; they take effect when they are parsed."""
    return verbosity_options(
        click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout."
        )(command)
    )


def verbosity_options(command: Command) -> Command:
    """Add all but ``--json``, for a command whose ``--json`` takes a file."""
    command = click.option(
        "--log-file",
        type=click.Path(path_type=Path),
        expose_value=False,
        is_eager=True,
        callback=_start_log_file,
        help="Append everything that is logged, with times and tracebacks, to this file.",
    )(_announcing(command))
    command = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        is_eager=True,
        callback=lambda _ctx, _param, count: set_verbosity(count) if count else None,
        help="Say more; -vv adds tracebacks.",
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
    """How much of the log is shown: -1 errors, 0 warnings, 1 information, 2 everything."""
    shown = _LEVELS[min(level, 2)]
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if is_logging_to_file() else shown)
        for handler in logger.handlers:
            if isinstance(handler, _StderrHandler):
                handler.setLevel(shown)


def screen_level() -> int:
    """The level from which the log is shown on stderr; a log file always has all of it."""
    handlers = logging.getLogger("triplex_deploy").handlers
    shown = (handler.level for handler in handlers if isinstance(handler, _StderrHandler))
    return next(shown, logging.WARNING)


def start_logging() -> None:
    """Send warnings of our packages to stderr; called once per command."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler())
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our own error says it better
    set_verbosity(0)


def is_quiet() -> bool:
    return screen_level() > logging.WARNING


def print_summary(as_json: bool, summary: Mapping[str, Any], lines: list[str]) -> None:
    """Print the machine-readable summary or the human lines on stdout."""
    if as_json:
        print_json(summary)
        return
    if not is_quiet():
        for line in lines:
            click.echo(line)


def print_json(summary: Mapping[str, Any]) -> None:
    """Print the machine-readable summary on stdout."""
    click.echo(json.dumps(summary, indent=2))


def command_line(ctx: click.Context) -> str:
    """The command as it was given, for files that record what made them."""
    return shlex.join(["triplex-deploy", *(ctx.obj or ())])


def missing_module(error: ModuleNotFoundError) -> str:
    """Which extra brings the library that a command lacks."""
    extra = EXTRA_OF.get((error.name or "").partition(".")[0])
    if extra is None:
        return one_line(error)
    return f"{error.name} is not installed; run `pip install 'triplex-deploy[{extra}]'`"


def _start_log_file(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is not None and not ctx.resilient_parsing:
        open_log_file(path, f"triplex-deploy {__version__}: {command_line(ctx)}")


def _announcing(command: Command) -> Command:
    """The same command, saying first which of its options were set elsewhere."""

    @wraps(command)
    def announced(*args: Any, **kwargs: Any) -> Any:
        announce_defaults(click.get_current_context())
        return command(*args, **kwargs)

    return announced  # type: ignore[return-value]


class _StderrHandler(logging.Handler):
    """``warning: what`` on whatever stderr is now, which progress bars may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        label = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        click.echo(f"{label}{text}", file=sys.stderr)
