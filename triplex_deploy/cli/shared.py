"""Options every command has: verbosity, logging to stderr, and the JSON summary on stdout."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from triplex_deploy.errors import one_line

Command = TypeVar("Command", bound=Callable[..., Any])

LOGGERS = ("triplex_deploy", "exporters")
EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "lightning": "train",
    "yaml": "train",
    "matplotlib": "train",
    "ray": "cluster",
}
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def common_options(command: Command) -> Command:
    """Add ``--json``, ``-v`` and ``-q``; logging is set up when they are parsed."""
    return verbosity_options(
        click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout."
        )(command)
    )


def verbosity_options(command: Command) -> Command:
    """Add ``-v`` and ``-q`` alone, for a command whose ``--json`` takes a file."""
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
    for name in LOGGERS:
        logging.getLogger(name).setLevel(_LEVELS[min(level, 2)])


def start_logging() -> None:
    """Send warnings of our packages to stderr; called once per command."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler())
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our own error says it better
    set_verbosity(0)


def is_quiet() -> bool:
    return not logging.getLogger("triplex_deploy").isEnabledFor(logging.WARNING)


def print_summary(as_json: bool, summary: Mapping[str, Any], lines: list[str]) -> None:
    """Print the machine-readable summary or the human lines on stdout."""
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    if not is_quiet():
        for line in lines:
            click.echo(line)


def missing_module(error: ModuleNotFoundError) -> str:
    """Which extra brings the library that a command lacks."""
    extra = EXTRA_OF.get((error.name or "").partition(".")[0])
    if extra is None:
        return one_line(error)
    return f"{error.name} is not installed; run `pip install 'triplex-deploy[{extra}]'`"


class _StderrHandler(logging.Handler):
    """``warning: what`` on whatever stderr is now, which progress bars may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        label = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        click.echo(f"{label}{text}", file=sys.stderr)
