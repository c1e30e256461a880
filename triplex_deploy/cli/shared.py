"""Options every command has: verbosity, logging to stderr, and the JSON summary on stdout."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


def common_options(command: Command) -> Command:
    """Add ``--json``, ``-v`` and ``-q``; logging is set up when they are parsed."""
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout."
    )(command)
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
    """Send the package's log to stderr; -1 shows errors, 0 warnings, 1 info, 2 everything."""
    logger = logging.getLogger("triplex_deploy")
    logger.setLevel(_LEVELS[min(level, 2)])


def start_logging() -> None:
    """Attach the stderr handler once."""
    logger = logging.getLogger("triplex_deploy")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


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


class _Formatter(logging.Formatter):
    """``warning: what``; information comes without a label."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"
