"""Which of several places a setting of ``train`` is taken from."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from triplex_deploy.cli.main import run
from triplex_deploy.cli.shared_options import ENSEMBLE
from triplex_deploy.contract import CONFIGS, ModelConfig, Neighborhood
from triplex_deploy.training import prepared, train
from triplex_deploy.training.options import TrainOptions

SCORES = {"pcc_m": 0.5, "mse": 0.1, "mae": 0.2}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ModelConfig, TrainOptions]]:
    """What ``train_fold`` was called with; nothing is trained."""
    calls = []

    def note(opened, fold, out, config, options, *rest):
        calls.append((config, options))
        return {
            **{"tested_on": ["A1"], "selection": options.selection, "shares_patients": False},
            **{"model": SCORES, "constant": SCORES},
        }

    opened = SimpleNamespace(
        folds=[SimpleNamespace(index=0)],
        n_genes=3,
        feature_dim=512,
        neighborhood=Neighborhood(),
    )
    monkeypatch.setattr(prepared, "open_prepared", lambda path: opened)
    monkeypatch.setattr(train, "train_fold", note)
    return calls


def test_file_decides_what_the_command_line_leaves_open(trained: list, tmp_path: Path) -> None:
    path = tmp_path / "nem.yaml"
    path.write_text("model: nem\nselection: paper\nepochs: 7\nlearning_rate: 3e-4\n")
    command = ["train", "prepared", "--out", str(tmp_path / "run"), "--config", str(path)]
    assert run(command) == 0
    assert run([*command, "--model", "gem", "--selection", "honest", "--set", "epochs=2"]) == 0
    (config, options), (other, overridden) = trained
    assert (config.model, config.n_genes) == ("nem", 3)
    assert (options.selection, options.epochs, options.learning_rate) == ("test_fold", 7, 3e-4)
    assert other.model == "gem"
    assert (overridden.selection, overridden.epochs) == ("validation", 2)


def test_defaults_are_triplex_selected_honestly(trained: list, tmp_path: Path) -> None:
    assert run(["train", "prepared", "--out", str(tmp_path)]) == 0
    ((config, options),) = trained
    assert (config.model, options.selection) == ("triplex", "validation")


def test_every_model_is_named_in_the_help_and_taken(
    trained: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for number, name in enumerate(name for name in CONFIGS if name != ENSEMBLE):
        assert name in text
        folder = str(tmp_path / name)
        assert run(["train", "prepared", "--out", folder, "--model", name]) == 0
        assert trained[number][0].model == name


def test_key_of_another_model_is_one_line_on_stderr(
    trained: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "prepared", "--out", str(tmp_path), "--model", "st_net"]
    assert run([*command, "--set", "fusion_depth=2"]) == 1
    error = capsys.readouterr().err
    assert "fusion_depth: not a setting of st_net" in error
    assert trained == []
