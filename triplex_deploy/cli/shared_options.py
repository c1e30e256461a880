"""Options that several commands have, each declared once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from triplex_deploy.cli.settings import Decorator, RenamedSetting, setting, settings
from triplex_deploy.files.url import is_url, shown_url
from triplex_deploy.system import usable_cores

Declare = Callable[..., Decorator]
"""``click.option`` or ``setting``."""
ENSEMBLE: Final = "ensemble"
"""Model that is made of trained ones, and not trained itself."""

logger = logging.getLogger(__name__)


class PathOrUrl(click.Path):
    """A path, or a URL, which stays text: a path would merge its slashes."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URL as text, and anything else as a path."""
        return value if is_url(str(value)) else super().convert(value, param, ctx)


class LocalPath(click.Path):
    """A path of this machine; a URL would become a folder such as ``s3:``."""

    def __init__(self, **choices: Any) -> None:
        super().__init__(path_type=Path, **choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; a URL is wrong usage."""
        if is_url(str(value)):
            self.fail(f"{shown_url(str(value))}: is a URL; give a path of this machine", param, ctx)
        return super().convert(value, param, ctx)


class GeneList(click.ParamType[tuple[str, ...]]):
    """Gene names separated by commas."""

    name = "A,B,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the names without spaces around them."""
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in str(value).split(",") if name.strip())


class BatchSize(click.ParamType[int | None]):
    """``auto``, which becomes None, or a positive integer."""

    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return None for ``auto``, otherwise the integer."""
        if value in ("auto", None):
            return None
        return click.IntRange(1).convert(value, param, ctx)


class ThreadCount(click.ParamType[int | None]):
    """A positive integer; more threads than cores become as many as there are cores."""

    name = "N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number, lowered with a warning if it is above the number of cores."""
        if value is None:
            return None
        threads = click.IntRange(1).convert(value, param, ctx)
        cores = max(usable_cores(), os.cpu_count() or 1)
        if threads > cores:
            logger.warning("--threads %d: this machine has %d cores; uses these", threads, cores)
        return int(min(threads, cores))


def out_option(help_text: str) -> Decorator:
    """Declare ``--out``, the required path of what a command writes."""
    return click.option("--out", required=True, type=LocalPath(), help=help_text)


def mpp_option(help_text: str, required: bool = False) -> Decorator:
    """Declare ``--mpp``, microns per pixel."""
    return click.option("--mpp", required=required, type=float, help=help_text)


def config_option(help_text: str, required: bool = False) -> Decorator:
    """Declare ``--config``, a file of settings of a model or a training."""
    return file_option("--config", help_text, required)


def tile_encoder_option(help_text: str, declare: Declare = click.option) -> Decorator:
    """Declare ``--tile-encoder``, the frozen encoder of tiles.

    Args:
        help_text: What it may be.
        declare: ``click.option``, or ``setting`` for a field of a settings class.
    """
    return file_option("--tile-encoder", help_text, declare=declare)


def file_option(
    name: str, help_text: str, required: bool = False, declare: Declare = click.option
) -> Decorator:
    """Declare an option that gives the path of a file."""
    return declare(name, required=required, type=LocalPath(), help=help_text)


def pooling_settings(pooled: str) -> tuple[Decorator, ...]:
    """Declare the settings of pooling; ``pooled`` says what is pooled into spots."""
    return (
        setting(
            "--pool-um", type=float, help=f"Pool {pooled} into spots at this distance in microns."
        ),
        setting(
            "--lattice",
            type=click.Choice(["square", "hexagonal"]),
            show_default=True,
            help="Lattice of pooled spots.",
        ),
        setting(
            "--bin",
            "bin_um",
            type=click.Choice([8, 16]),
            show_default=True,
            help="Size in microns of the Visium HD bins that are pooled.",
        ),
        setting(
            "--alignment",
            type=click.Path(path_type=Path),
            help="Xenium Explorer's alignment of the slide. [default: the only one in the folder]",
        ),
    )


def model_option() -> Decorator:
    """Declare ``--model``, the name of a model that can be trained."""
    from triplex_deploy.contract import CONFIGS

    names = [name for name in CONFIGS if name != ENSEMBLE]
    text = f"{', '.join(names[:-1])} or {names[-1]}.  [default: {names[0]}]"
    return click.option("--model", help=text)


def genes_option(help_text: str = "Only these genes, comma-separated.") -> Decorator:
    """Declare ``--genes``, which gives a tuple of names or None."""
    return click.option("--genes", type=GeneList(), help=help_text)


def executor_options(jobs: str, workers_help: str) -> Decorator:
    """Add ``--workers`` and ``--executor``, which give an ``ExecutorChoice`` named ``executor``.

    Args:
        jobs: What the workers work on, such as ``slides``.
        workers_help: Help of ``--workers``.
    """
    return settings(
        "executor",
        "triplex_deploy.cohort.executor:ExecutorChoice",
        setting("--workers", type=click.IntRange(1), help=workers_help),
        setting(
            "--engine",
            "--executor",
            "executor",
            cls=RenamedSetting,
            type=click.Choice(["local", "ray"]),
            show_default=True,
            help=f"Run the {jobs} on this machine, or on a Ray cluster with the same paths.",
        ),
    )


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu or cuda:N. A GPU that cannot be used is an error.",
)
