"""Files of studies: which are refused, and whether the shipped ones are valid."""

from pathlib import Path
from typing import Any

import pytest

from tests.study.conftest import study_values, write_study
from triplex_deploy.errors import ConfigError
from triplex_deploy.study.cells import make_cells, settings_of
from triplex_deploy.study.config import read_study, shipped_studies, slug
from triplex_deploy.study.paper import paper_row
from triplex_deploy.training.options import split_settings


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_names_known_settings_and_rows_of_the_paper(name: str) -> None:
    study = read_study(name)
    assert study.config.name == name
    assert study.config.reference == "TRIPLEX"
    for dataset in study.config.datasets.values():
        for model in study.config.models:
            config, _ = split_settings(settings_of(study, dataset, model))
            assert config.model == study.config.models[model]["model"]
        if dataset.paper is not None:
            rows = [study.config.paper_rows.get(model, model) for model in study.config.models]
            printed = [paper_row(dataset.paper.table, dataset.paper.column, row) for row in rows]
            absent = [row for row, values in zip(rows, printed, strict=True) if values is None]
            assert absent == (["alpha 0"] if name == "table5" else [])


def test_shipped_studies_are_the_tables_and_one_for_real_sections() -> None:
    real = ["her2st_baselines", "her2st_c", "her2st_neighborhood"]
    assert shipped_studies() == ["demo", *real, *(f"table{number}" for number in range(1, 6))]


def test_tables_three_to_five_share_their_reference_with_table_one() -> None:
    """Otherwise TRIPLEX on SCC would be trained four times."""
    wanted = _triplex_on_scc("table1")
    assert wanted["fusion_heads"] == 8
    for number in (3, 4, 5):
        assert _triplex_on_scc(f"table{number}") == wanted


def _triplex_on_scc(name: str) -> dict[str, Any]:
    study = read_study(name)
    assert (study.config.selection, study.config.seeds) == ("test_fold", [2021])
    return settings_of(study, study.config.datasets["SCC"], "TRIPLEX")


def test_misspelled_key_is_refused_with_the_closest(tmp_path: Path) -> None:
    values = study_values(tmp_path, seed=[1])
    with pytest.raises(ConfigError, match=r"seed: not a key of a study; did you mean seeds\?"):
        read_study(write_study(tmp_path, values))
    values = study_values(tmp_path, datasets={"ST": {"prepard": "x"}})
    with pytest.raises(ConfigError, match=r"datasets.ST.prepard: .* did you mean prepared\?"):
        read_study(write_study(tmp_path, values))


def test_wrong_type_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds\.0: Input should be a valid integer"):
        read_study(write_study(tmp_path, study_values(tmp_path, seeds=["one"])))


def test_unknown_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reference GEN: did you mean GEM\?"):
        read_study(write_study(tmp_path, study_values(tmp_path, reference="GEN")))


def test_unknown_study_is_refused_with_the_closest_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean table1\?"):
        read_study("tabel1")


def test_folder_of_the_same_name_does_not_hide_a_shipped_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As made by ``study her2st_c --out her2st_c``, when that is run again."""
    monkeypatch.chdir(tmp_path)
    Path("her2st_c").mkdir()
    assert read_study("her2st_c").config.name == "her2st_c"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "GEM: epoch is not a setting; did you mean epochs?"),
        ({"seed": 3}, "seed is the same for all models"),
        ({"selection": "validation"}, "selection is the same for all models"),
    ],
)
def test_invalid_setting_is_refused_before_any_training(
    prepared_path: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    study = read_study(write_study(tmp_path, study_values(prepared_path, settings=settings)))
    with pytest.raises(ConfigError, match=message):
        make_cells(study, tmp_path / "out")


def test_settings_of_a_data_set_go_before_those_of_the_model(tmp_path: Path) -> None:
    values = study_values(tmp_path, settings={"epochs": 1, "patience": 2})
    values["models"]["GEM"]["epochs"] = 3
    values["datasets"]["ST"]["settings"] = {"GEM": {"epochs": 5}}
    study = read_study(write_study(tmp_path, values))
    dataset = study.config.datasets["ST"]
    assert settings_of(study, dataset, "GEM")["epochs"] == 5
    assert settings_of(study, dataset, "NEM")["epochs"] == 1
    assert settings_of(study, dataset, "GEM")["patience"] == 2


def test_paths_start_at_the_file_or_where_the_caller_says(tmp_path: Path) -> None:
    path = write_study(tmp_path, study_values(Path("prepared/st")))
    assert read_study(path).path("prepared/st") == tmp_path / "prepared/st"
    assert read_study(path, Path("/data")).path("prepared/st") == Path("/data/prepared/st")


def test_labels_become_names_of_folders() -> None:
    assert slug("w/o fusion loss") == "w-o-fusion-loss"
    assert slug("../x") == "x"


def test_labels_that_become_one_folder_are_refused(tmp_path: Path) -> None:
    models = {"a b": {"model": "gem"}, "a-b": {"model": "nem"}}
    values = study_values(tmp_path, models=models, reference=None)
    with pytest.raises(ConfigError, match="names of folders must differ"):
        read_study(write_study(tmp_path, values))
