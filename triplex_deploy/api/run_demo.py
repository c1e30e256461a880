"""Run every step on synthetic data, as ``triplex-deploy demo`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from triplex_deploy.progress import shown

if TYPE_CHECKING:
    from triplex_deploy.demo.run import DemoResult


def run_demo(out: str | Path, quick: bool = False, progress: bool = False) -> DemoResult:
    """Make a data set, train on it, export, predict, evaluate and report, in one folder.

    Args:
        out: Folder to write.
        quick: Use a few dozen spots: seconds in place of minutes, with poor scores.
        progress: Print the progress on stderr.

    Returns:
        The prediction and the scores.

    Raises:
        OutputError: If ``out`` holds other files, or cannot be written.
    """
    from triplex_deploy.demo import run

    return run.run_demo(out, run.QUICK if quick else run.FULL, shown(progress))
