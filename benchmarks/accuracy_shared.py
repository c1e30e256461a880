"""Measure the accuracy that is lost if neighbor tiles are taken from a grid of the slide.

    python benchmarks/accuracy_shared.py --work build/shared

Prepares sections C2 to C5 of the HER2+ breast cancer data set with exact neighborhoods and with two
strides, and runs the study ``her2st_neighborhood`` on them: TRIPLEX, paired by fold and seed. The
sections are of one patient, so this says nothing about new patients. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from triplex_deploy.cli.progress import StageBars
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.study.config import Study, read_study
from triplex_deploy.study.run import StudyOptions, run_study
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions

DATA: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "her2st"
STUDY: Final = "her2st_neighborhood"
SECTIONS: Final = "section,patient\nC2,C\nC3,C\nC4,C\nC5,C\n"
NEIGHBORHOODS: Final = {
    "her2st_c": ("exact", None),
    "her2st_c_224": ("shared", 224),
    "her2st_c_112": ("shared", 112),
}
"""Neighborhood and stride of each folder that the study names."""


def main() -> None:
    arguments = _parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    listed = arguments.work / "sections.csv"
    listed.write_text(SECTIONS, encoding="utf-8")
    exact = PrepareOptions(
        layout="st",
        section_list=listed,
        tile_encoder=Path("efficientnet_lite0"),
        folds="sections",
        native_pixels=True,
    )
    with StageBars() as progress:
        for name, (kind, stride) in NEIGHBORHOODS.items():
            options = replace(exact, neighborhood=kind, stride=stride)
            prepare_dataset(arguments.data, arguments.work / "prepared" / name, options, progress)
        study_options = StudyOptions(
            executor=ExecutorChoice(workers=arguments.workers),
            deploy=False,
            command=shlex.join(["python", *sys.argv]),
        )
        study = _part(read_study(STUDY, arguments.work), arguments)
        run_study(study, arguments.work / STUDY, study_options, progress)
    print((arguments.work / STUDY / f"{STUDY}.md").read_text(encoding="utf-8"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder in her2st's layout.")
    parser.add_argument("--work", type=Path, required=True, help="Folder for features and runs.")
    parser.add_argument("--seeds", type=int, nargs="+", help="Fewer seeds than the study's.")
    parser.add_argument("--folds", type=int, nargs="+", help="Fewer folds than all.")
    parser.add_argument("--workers", type=int, default=1, help="Trainings at a time.")
    return parser.parse_args()


def _part(study: Study, arguments: argparse.Namespace) -> Study:
    """Return the study with the seeds and folds that were chosen; its cells are the same."""
    chosen = {"seeds": arguments.seeds, "folds": arguments.folds, "maps": {}}
    changes = {key: value for key, value in chosen.items() if value is not None}
    return replace(study, config=study.config.model_copy(update=changes))


if __name__ == "__main__":
    main()
