from pathlib import Path

import pytest

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.training import options as options_module
from triplex_deploy.training.options import (
    ADDED_OPTIONS,
    TrainOptions,
    read_settings,
    split_settings,
)


def test_assignments_override_the_file_and_go_to_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"global_depth": 5, "patience": 3}')
    values = read_settings(path, ["global_depth=2", "learning_rate=3e-4", "position=none"])
    config, options = split_settings(values)
    assert isinstance(config, ModelConfig)
    assert (config.global_depth, config.position) == (2, "none")
    assert (options.patience, options.learning_rate) == (3, 3e-4)


def test_yaml_is_read_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "# ours\nlearning_rate: 1e-4\nposition: none\nepochs: 30\naugment: false\n"
        "precision: 16-mixed\nname: 10X Visium\n"
    )
    assert read_settings(path, ["epochs=5"]) == {
        "learning_rate": 1e-4,
        "position": "none",
        "epochs": 5,
        "augment": False,
        "precision": "16-mixed",
        "name": "10X Visium",
    }


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "epochs: [1", "cannot be read"),
        ("a.yml", "!!python/object/apply:os.mkdir [ran]", "cannot be read"),
        ("a.yaml", "- epochs", "no table of settings"),
        ("a.yaml", "", "no table of settings"),
        ("a.json", "epochs: 1", "cannot be read"),
        ("a.json", "[1]", "no table of settings"),
    ],
)
def test_file_that_is_no_table_of_plain_values_is_refused(
    name: str, text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_settings(tmp_path / name, [])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "assignment", ["lr=1", "epochs", "epochs=many", "augment=1", "epochs=0", "precision=fp8"]
)
def test_unknown_or_wrong_setting_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match=assignment.partition("=")[0]):
        split_settings(read_settings(None, [assignment]))


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("st_net", "fusion_depth", "1"),
        ("his_to_gene", "n_exemplars", "9"),
        ("egn", "n_retrieved", "50"),
        ("triplex", "temperature", "2"),
    ],
)
def test_key_of_one_model_is_refused_for_another(model: str, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: not a setting of {model}; known: .*batch_size"):
        split_settings(read_settings(None, [f"model={model}", f"{key}={value}"]))


def test_model_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"model='vit': use triplex, .*hist2st, egn, bleep$"):
        split_settings({"model": "vit"})
    with pytest.raises(ConfigError, match="model=3: use triplex"):
        split_settings({"model": 3})
    with pytest.raises(ConfigError, match=r"made of trained models.*export with --ensemble"):
        split_settings({"model": "ensemble"})
    with pytest.raises(ConfigError, match=r"epocs: not a setting .*did you mean epochs\?"):
        split_settings({"epocs": 3})


def test_models_bring_their_own_settings_and_learning_rate() -> None:
    config, options = split_settings({"model": "hist2st", "graph_depth": 2})
    assert (config.model, options.learning_rate) == ("hist2st", 1e-5)
    assert config.to_dict()["graph_depth"] == 2
    assert split_settings({"model": "his_to_gene"})[1].learning_rate == 1e-5
    assert split_settings({"model": "his_to_gene", "learning_rate": 1e-3})[1].learning_rate == 1e-3
    for name in ("triplex", "st_net", "egn", "bleep"):
        assert split_settings({"model": name})[1].learning_rate == 1e-4


def test_settings_of_earlier_versions_keep_their_meaning() -> None:
    old = {"selection": "paper", "target_trunk_lr_scale": 0.0, "target_trunk": "efficientnet_lite0"}
    config, options = split_settings(old)
    assert (options.selection, options.backbone_lr_scale) == ("test_fold", 0.0)
    assert config.to_dict()["target_backbone"] == "efficientnet_lite0"
    stored = {"selection": "honest", "trunk_weights": "densenet.pth"}
    assert TrainOptions.from_dict(stored) == TrainOptions(backbone_weights="densenet.pth")
    with pytest.raises(ConfigError, match="backbone_lr_scale: given twice"):
        split_settings({"backbone_lr_scale": 1.0, "target_trunk_lr_scale": 0.0})


KEYS_OF_DIGESTS = {
    "selection",
    "epochs",
    "batch_size",
    "learning_rate",
    "lr_step_epochs",
    "lr_gamma",
    "weight_decay",
    "patience",
    "refit",
    "feature_dropout",
    "ema_decay",
    "backbone_lr_scale",
    "backbone_weights",
    "augment",
    "seed",
    "precision",
    "accelerator",
    "devices",
}
"""Options in every digest; an option added later belongs into ``ADDED_OPTIONS`` instead."""


def test_a_new_option_at_its_default_leaves_digests_as_they_were() -> None:
    assert set(TrainOptions().digest_values()) == KEYS_OF_DIGESTS
    assert set(TrainOptions().to_dict()) == KEYS_OF_DIGESTS | set(ADDED_OPTIONS)


def test_an_added_option_counts_in_digests_when_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "ADDED_OPTIONS", ("patience",))
    assert "patience" not in TrainOptions().digest_values()
    assert TrainOptions(patience=3).digest_values()["patience"] == 3
    monkeypatch.setattr(ModelConfig, "added", ("apeg_kernel",))
    default = ModelConfig().apeg_kernel
    assert "apeg_kernel" not in ModelConfig(apeg_kernel=default).digest_values()
    assert ModelConfig(apeg_kernel=5).digest_values()["apeg_kernel"] == 5
