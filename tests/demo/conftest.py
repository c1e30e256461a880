"""A small synthetic data set for all tests of the demo."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from triplex_deploy.demo.dataset import MadeSection, SectionPlan, write_dataset

PLANS = (SectionPlan("A", 1, (6, 5)), SectionPlan("B", 1, (6, 5)))


@dataclass(frozen=True)
class MadeDataset:
    root: Path
    sections: list[MadeSection]


@pytest.fixture(scope="session")
def made_dataset(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    root = tmp_path_factory.mktemp("made") / "dataset"
    return MadeDataset(root, write_dataset(root, PLANS, seed=3))
