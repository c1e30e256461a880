"""A study of one data set that is prepared with several neighborhoods."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study.conftest import NEM, study_values, write_study
from tests.training.conftest import write_section
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.contract import Neighborhood
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.models import read_checkpoint
from triplex_deploy.study.cells import make_cells
from triplex_deploy.study.check import check_study
from triplex_deploy.study.config import read_study
from triplex_deploy.study.run_cells import run_cells
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions

WIDE = {"neighborhood": "shared", "neighborhood_stride": 224}
MODELS = {
    "plain": dict(NEM),
    "exact": {**NEM, "neighborhood": "exact"},
    "wide": {**NEM, **WIDE},
}


@pytest.fixture(scope="module")
def options(mean_encoder: Path) -> PrepareOptions:
    return PrepareOptions(
        layout="st", n_genes=3, tile_encoder=mean_encoder, neighborhood="shared", stride=224
    )


@pytest.fixture(scope="module")
def wide_path(
    st_root: Path, options: PrepareOptions, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("wide") / "prepared"
    prepare_dataset(st_root, out, options)
    return out


def values_of(prepared: Path, *others: Path, **changes: Any) -> dict[str, Any]:
    dataset = {"prepared": str(prepared), "also_prepared": [str(other) for other in others]}
    given = {"datasets": {"ST": dataset}, "models": MODELS, "reference": "plain", "folds": [0]}
    return study_values(prepared, **given, **changes)


def test_a_model_is_trained_on_the_folder_with_its_neighborhood(
    prepared_path: Path, wide_path: Path, tmp_path: Path
) -> None:
    study = read_study(write_study(tmp_path, values_of(prepared_path, wide_path)))
    check_study(study)
    cells = {cell.model: cell for cell in make_cells(study, tmp_path / "out")}
    folders = {label: cell.prepared for label, cell in cells.items()}
    assert folders == {"plain": prepared_path, "exact": prepared_path, "wide": wide_path}
    assert cells["plain"].digest == cells["exact"].digest  # the default, spelled out
    (outcome,) = run_cells([cells["wide"]], ExecutorChoice())
    assert outcome.status == "done", outcome.error
    config = read_checkpoint(cells["wide"].checkpoint).config
    assert config.neighbors == Neighborhood("shared", 224)


def test_a_model_without_the_setting_takes_the_first_folder(
    prepared_path: Path, wide_path: Path, tmp_path: Path
) -> None:
    study = read_study(write_study(tmp_path, values_of(wide_path, prepared_path)))
    cells = {cell.model: cell for cell in make_cells(study, tmp_path / "out")}
    assert cells["plain"].prepared == wide_path
    assert cells["plain"].config.neighbors == Neighborhood("shared", 224)
    assert cells["exact"].prepared == prepared_path


def test_a_neighborhood_that_no_folder_has_is_refused(prepared_path: Path, tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, values_of(prepared_path)))
    with pytest.raises(ConfigError, match=r"ST / wide: no folder .* shared, stride 224 px"):
        make_cells(study, tmp_path / "out")


def test_folders_of_other_data_are_refused(
    st_root: Path, options: PrepareOptions, prepared_path: Path, tmp_path: Path
) -> None:
    prepare_dataset(st_root, tmp_path / "fewer", replace(options, n_genes=2))
    study = read_study(write_study(tmp_path, values_of(prepared_path, tmp_path / "fewer")))
    with pytest.raises(DatasetError, match="has another n_genes than"):
        check_study(study)


def test_external_sections_of_another_neighborhood_are_refused(
    options: PrepareOptions, prepared_path: Path, wide_path: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("D1", "E1"), start=10):
        write_section(tmp_path / "data", name, np.random.default_rng(number))
    prepare_dataset(tmp_path / "data", tmp_path / "other", options)
    entry = {"prepared": str(tmp_path / "other"), "trained_on": "ST"}
    values = values_of(prepared_path, wide_path, external={"Other": entry})
    with pytest.raises(DatasetError, match=r"shared, stride 224 px, plain is trained with exact"):
        check_study(read_study(write_study(tmp_path, values)))
    values["external"]["Other"]["models"] = ["wide"]
    check_study(read_study(write_study(tmp_path, values)))


def test_external_sections_that_were_trained_on_are_found_with_other_neighbors(
    prepared_path: Path, wide_path: Path, tmp_path: Path
) -> None:
    entry = {"prepared": str(wide_path), "trained_on": "ST", "models": ["wide"]}
    values = values_of(prepared_path, wide_path, external={"Other": entry})
    with pytest.raises(DatasetError, match="section A1 is section A1 of the training data"):
        check_study(read_study(write_study(tmp_path, values)))
