"""Run the command line: load commands when they are used, and turn errors into one line."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import click

from triplex_deploy.cli.closest import did_you_mean
from triplex_deploy.cli.config_file import ENVIRONMENT_PREFIX, name_variables, use_defaults
from triplex_deploy.cli.log_file import close_log_file, note
from triplex_deploy.cli.shared import missing_module, screen_level, start_logging
from triplex_deploy.cli.streams import note_line, prepare_streams, print_text, settle_streams
from triplex_deploy.errors import OutputError, narrow_limits, one_line
from triplex_deploy.files.escape import printable
from triplex_deploy.version import __version__

COMMANDS = {
    "bench": "Measure how fast bundles are here, and compare two results.",
    "completion": "Print the script that completes commands and options in your shell.",
    "convert": "Write a prediction as a file that other programs open.",
    "demo": "Try every step on synthetic data, from a data set to a report.",
    "doctor": "Show versions, devices and libraries, and what is missing.",
    "encoder": "Write a pathology encoder from timm as an ONNX file for prepare.",
    "evaluate": "Score a run over its folds, or a prediction against measured counts.",
    "export": "Turn a checkpoint into a bundle of ONNX graphs.",
    "import-checkpoint": "Turn published TRIPLEX weights into a checkpoint.",
    "predict": "Predict gene expression over whole slides.",
    "prepare": "Read a data set, encode its tiles once, and set up folds to train on.",
    "report": "Write the HTML report of a prediction, or the index of a folder of them.",
    "study": "Compare models over data sets, folds and seeds; resumable, with tables.",
    "train": "Train on a prepared data set; checkpoints, curves and metrics per fold.",
    "verify": "Check a bundle's files and replay its parity inputs.",
}
"""All commands with their descriptions in ``--help``."""

HELP = {"-h", "--help"}
"""Options that show the help."""


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"triplex_deploy.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        name_variables(cmd_name, command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command with the defaults of files; suggest a command for an unknown name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            meant = did_you_mean(name, COMMANDS)
            raise click.UsageError(f"No such command {name!r}; {meant}", ctx)
        found = super().resolve_command(ctx, args)
        asks_for_help = not HELP.isdisjoint(args)  # help must work with a broken file
        if found[1] is not None and not ctx.resilient_parsing and not asks_for_help:
            use_defaults(ctx, name, found[1], list(COMMANDS))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog="Start with: triplex-deploy demo --out demo-out. You can set defaults of options in "
    "triplex-deploy.toml; `triplex-deploy doctor` shows which files are read.",
    context_settings={"help_option_names": sorted(HELP)},
)
@click.version_option(__version__, prog_name="triplex-deploy")
def group() -> None:
    """Predict spatial gene expression from H&E whole-slide images with TRIPLEX."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status (0, 1, 2 or 3)."""
    prepare_streams()
    if narrow_limits():  # OpenBLAS crashes where it cannot start its threads
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    status = run(arguments)
    settle_streams()
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; errors are one line on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    start_logging()
    try:
        status = _status(given)
        note(logging.INFO, f"exit status {status}")
        return status
    finally:
        close_log_file()


def _status(given: list[str]) -> int:
    interrupts: list[int] = []
    try:
        with _interrupted_by_signals() as interrupts:
            status: Any = group.main(
                given,
                prog_name="triplex-deploy",
                standalone_mode=False,
                auto_envvar_prefix=ENVIRONMENT_PREFIX,
                obj=given,
            )
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # that is the help, in lines
            vars(error)["message"] = printable(error.message)
        with suppress(OSError):
            error.show()
        note(logging.ERROR, error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return _interrupted(error)
    except Exception as error:  # noqa: BLE001 - a bug of this package; shown as one line too
        if interrupts:  # a library turned the interrupt into an error of its own
            return _interrupted(error)
        return _fail(_line_of(error), given, error)


def _interrupted(error: BaseException) -> int:
    line = "interrupted; nothing half-written was left"
    note_line(f"error: {line}")
    note(logging.ERROR, line, error)
    return 130


def _line_of(error: Exception) -> str:
    """Return an error as one line with its remedy."""
    if isinstance(error, ModuleNotFoundError):
        return missing_module(error)
    return one_line(error)


@contextmanager
def _interrupted_by_signals() -> Iterator[list[int]]:
    """Treat SIGTERM and SIGHUP, of schedulers and closed terminals, like Ctrl-C.

    Yields the signals that came. So files are cleaned up, and an error that a library makes of an
    interrupt, such as a failed import, is known as one. A signal that is ignored stays ignored.
    """
    came: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(line: str, arguments: list[str], error: Exception) -> int:
    if screen_level() <= logging.DEBUG:
        for text in traceback.format_exc().splitlines():
            note_line(text)
    note(logging.ERROR, line, error)
    note_line(f"error: {line}")
    if "--json" in arguments:
        with suppress(OutputError):  # the line on stderr says it
            print_text(json.dumps({"error": line}, indent=2))
    return 1
