"""What is refused before any cell is trained."""

from pathlib import Path
from typing import Any

import pytest

from tests.study.conftest import study_values, write_study
from triplex_deploy.errors import ConfigError, DatasetError, TriplexError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.study.config import read_study
from triplex_deploy.study.run import run_study
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions


def refused(folder: Path, values: dict[str, Any], error: type[TriplexError], message: str) -> None:
    with pytest.raises(error, match=message):
        run_study(read_study(write_study(folder, values)), folder / "out")
    assert not (folder / "out/cells").exists()


def external(prepared: Path, **more: Any) -> dict[str, Any]:
    return {"external": {"Other": {"prepared": str(prepared), "trained_on": "ST", **more}}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"section": "A1", "genes": ["KRT5"]}, "maps.ST: KRT5 is not predicted"),
        ({"section": "C1"}, "maps.ST: no fold tests section C1; use one of A1, B1"),
    ],
)
def test_map_that_cannot_be_drawn(
    prepared_path: Path, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    refused(tmp_path, study_values(prepared_path, maps={"ST": entry}), ConfigError, message)


def test_column_that_the_paper_does_not_have(prepared_path: Path, tmp_path: Path) -> None:
    paper = {"table": "table1", "column": "BC3"}
    values = study_values(
        prepared_path, datasets={"ST": {"prepared": str(prepared_path), "paper": paper}}
    )
    refused(tmp_path, values, ConfigError, "table1 has no column BC3; it has BC1, BC2, SCC")


def test_external_sample_that_is_not_there(prepared_path: Path, tmp_path: Path) -> None:
    samples = {"visium-1": "10X Visium-1"}
    values = study_values(prepared_path, **external(prepared_path, samples=samples))
    refused(tmp_path, values, ConfigError, "no section visium-1; it has A1, B1, C1")


def test_external_data_of_another_encoder(
    st_root: Path, prepared_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    prepare_dataset(st_root, other, PrepareOptions(layout="st", n_genes=3))
    values = study_values(prepared_path, **external(other))
    refused(tmp_path, values, DatasetError, "prepared with another tile encoder")


def test_external_data_of_other_labels(
    st_root: Path, mean_encoder: Path, prepared_path: Path, tmp_path: Path
) -> None:
    options = PrepareOptions(
        layout="st", n_genes=3, tile_encoder=mean_encoder, labels=LabelTransform(log="ln")
    )
    prepare_dataset(st_root, tmp_path / "other", options)
    values = study_values(prepared_path, **external(tmp_path / "other"))
    refused(tmp_path, values, DatasetError, "label log is ln, the models learned log10")


def test_external_sections_that_were_trained_on(prepared_path: Path, tmp_path: Path) -> None:
    values = study_values(prepared_path, **external(prepared_path))
    refused(tmp_path, values, DatasetError, "section A1 is section A1 of the training data")
