"""Compare models over data sets, folds and seeds, as ``triplex-deploy study`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from triplex_deploy.progress import shown

if TYPE_CHECKING:
    from triplex_deploy.study.run import StudyResult


def run_study(
    config: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> StudyResult:
    """Do what is left of a study, and write its tables and figures.

    Args:
        config: YAML or JSON file, or the name of a study that is included, such as ``demo``.
        out: Folder of the results.
        data: Folder at which relative paths of the study start; None for the file's folder.
        workers: Number of processes that train, None for one.
        progress: Print the progress on stderr.

    Returns:
        The results and tables; trainings that failed are among them.

    Raises:
        ConfigError: If the study or a setting is not valid.
        DatasetError: If a data set is not prepared.
        OutputError: If ``out`` cannot be made.
    """
    from triplex_deploy.cohort.executor import ExecutorChoice
    from triplex_deploy.study import run
    from triplex_deploy.study.config import read_study

    study = read_study(config, None if data is None else Path(data))
    options = run.StudyOptions(ExecutorChoice(workers=workers))
    return run.run_study(study, Path(out), options, shown(progress))
