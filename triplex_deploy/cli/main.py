"""Entry point: lazy sub-commands, and the one place where an error becomes a line of text."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from triplex_deploy import __version__
from triplex_deploy.cli.shared import missing_module, start_logging
from triplex_deploy.errors import TriplexError, one_line

COMMANDS = {
    "bench": "Measure how fast bundles are here, and compare two results.",
    "convert": "Write a prediction as a file that other programs open.",
    "demo": "Try everything on synthetic data: checkpoint, bundle, slide, prediction.",
    "doctor": "Show versions, devices and libraries, and what is missing.",
    "evaluate": "Score a run over its folds, or a prediction against measured counts.",
    "export": "Turn a checkpoint into a bundle of ONNX graphs.",
    "import-checkpoint": "Turn published TRIPLEX weights into a checkpoint.",
    "predict": "Predict gene expression over whole slides.",
    "prepare": "Read a data set, encode its tiles once, and set up folds to train on.",
    "report": "Write the HTML report of a prediction, or the index of a folder of them.",
    "train": "Train on a prepared data set; checkpoints, curves and metrics per fold.",
    "verify": "Check a bundle's files and replay its parity inputs.",
}


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"triplex_deploy.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog="Start with: triplex-deploy demo --out demo-out",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="triplex-deploy")
def group() -> None:
    """Predict spatial gene expression from H&E whole-slide images with TRIPLEX."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status (0, 1, 2 or 3)."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; errors are one line on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    start_logging()
    try:
        with _interrupted_by_sigterm():
            status: Any = group.main(given, prog_name="triplex-deploy", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted; nothing half-written was left", err=True)
        return 130
    except TriplexError as error:
        return _fail(one_line(error), given)
    except ModuleNotFoundError as error:
        return _fail(missing_module(error), given)
    except Exception as error:  # noqa: BLE001 - a bug of ours, still told in one line
        return _fail(one_line(error), given)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let a scheduler's SIGTERM clean up like Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(line: str, arguments: list[str]) -> int:
    if logging.getLogger("triplex_deploy").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    click.echo(f"error: {line}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": line}, indent=2))
    return 1
