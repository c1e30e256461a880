"""The commands of encoders: what is listed, and which options fit together."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from triplex_deploy.cli.encoder import command
from triplex_deploy.exporters.encoder_presets import PRESETS


def test_list_shows_every_preset_with_its_terms(invoke: Invoke) -> None:
    finished = invoke("encoder", "list")
    assert finished.status == 0
    for preset in PRESETS.values():
        assert preset.name in finished.out
        assert f"{preset.license}; {preset.home}" in finished.out
    listed = json.loads(invoke("encoder", "list", "--json").out)["presets"]
    assert [preset["name"] for preset in listed] == list(PRESETS)
    assert all(preset["sources"] for preset in listed)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --preset and --timm"),
        (["--preset", "uni", "--timm", "resnet18"], "give one of --preset and --timm"),
        (["--preset", "uni", "--pool", "mean"], "--pool: a preset says this itself"),
        (["--preset", "uni", "--mpp", "1", "--name", "x"], "--mpp, --name: a preset says"),
        (["--timm", "resnet18", "--weight-bits", "4"], "'4' is not one of"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    invoke: Invoke, words: list[str], message: str, tmp_path: Path
) -> None:
    more = ["--weights", tmp_path / "w.bin", "--out", tmp_path / "e.onnx"]
    finished = invoke("encoder", "export", *words, *more)
    assert finished.status == 2
    assert message in finished.err


@pytest.mark.torch
def test_refusals_come_before_anything_is_loaded(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "e.onnx").touch()
    given = ["--weights", tmp_path / "absent.bin", "--out", tmp_path / "e.onnx"]
    finished = invoke("encoder", "export", "--preset", "uni", *given)
    assert finished.status == 1
    assert "exists; choose another --out or pass --force" in finished.err
    finished = invoke("encoder", "export", "--preset", "uni4", *given)
    assert finished.status == 1
    assert "preset 'uni4': use uni, uni2-h" in finished.err


def test_every_subcommand_has_help_with_an_example(invoke: Invoke) -> None:
    for name in command.commands:
        finished = invoke("encoder", name, "--help")
        assert finished.status == 0
        assert f"Example: triplex-deploy encoder {name}" in finished.out
        for option in ("--json", "-v, --verbose", "-q, --quiet", "--log-file"):
            assert option in finished.out
