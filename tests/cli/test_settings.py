"""Options are declared once: names and defaults are those of the settings classes."""

import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from tests.cli.conftest import Invoke
from triplex_deploy.bench.options import BenchOptions
from triplex_deploy.cli import bench, export, predict, prepare, study, train
from triplex_deploy.cli.settings import Setting
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.expression import LabelTransform
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare_options import PrepareOptions


def _settings(command: click.Command, home: type) -> dict[str | None, Setting]:
    place = f"{home.__module__.partition('.labels')[0]}:{home.__name__}"
    found = [param for param in command.params if getattr(param, "home", None) == place]
    return {param.name: param for param in found if isinstance(param, Setting)}


@pytest.mark.parametrize(
    ("command", "home", "without"),
    [
        (predict.command, PredictOptions, set()),
        (predict.command, ExecutorChoice, {"log_level"}),
        (study.command, ExecutorChoice, {"log_level"}),
        (prepare.command, PrepareOptions, {"labels", "device"}),
        (prepare.command, LabelTransform, {"scale"}),
        (export.command, TensorrtOptions, {"precision"}),
        (export.command, ExportOptions, {"precision", "calibration", "tensorrt", "triton"}),
        (
            bench.command,
            BenchOptions,
            {
                "bundles",  # an argument
                "slide_options",
                "graphs",
                "end_to_end",
                "command",
                "count_cost",
                "cost_absent",
            },
        ),
    ],
)
def test_every_field_is_an_option_with_the_default_of_the_field(
    command: click.Command, home: type, without: set[str]
) -> None:
    options = _settings(command, home)
    assert set(options) == {field.name for field in fields(home)} - without
    context = click.Context(command)
    for field in fields(home):
        if field.name in options and not options[field.name].required:
            option = options[field.name]
            assert option.type_cast_value(context, option.get_default(context)) == field.default


def test_options_that_override_a_file_show_the_default_of_the_field(invoke: Invoke) -> None:
    options = {option.name: option for option in train.command.params}
    context = click.Context(train.command)
    text = " ".join(train.command.get_help(context).split())
    for name in ("selection", "epochs", "seed"):
        assert options[name].get_default(context) is None
        assert f"[default: {getattr(TrainOptions(), name)}]" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--spots", "hd", "--pool-um", "3"], "--pool-um=3: use at least 20 microns"),
        (["--pool-um", "100"], "--pool-um: there is nothing to pool"),
        (["--mask-class", "Tumor"], "--mask-class: there is no mask"),
        (["--layout", "visium", "--pitch-um", "50"], "--pitch-um: only the grid layout"),
    ],
)
def test_a_refused_setting_has_the_name_of_its_option(
    invoke: Invoke, tmp_path: Path, words: list[str], told: str
) -> None:
    refused = invoke("predict", "a.svs", "--bundle", "b", "--out", tmp_path / "out", *words)
    assert refused.status == 1
    assert refused.err.startswith(f"error: {told}")


def test_missing_required_setting_is_a_usage_error(invoke: Invoke) -> None:
    finished = invoke("prepare", "data", "--out", "out")
    assert finished.status == 2
    assert "Missing option '--format'" in finished.err


def test_a_variable_has_the_name_of_the_option(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPLEX_DEPLOY_PREPARE_FORMAT", "visium")
    monkeypatch.setenv("TRIPLEX_DEPLOY_PREPARE_GENES", "0")
    finished = invoke("prepare", "data", "--out", "out")
    assert "'--genes'" in finished.err
    monkeypatch.setenv("TRIPLEX_DEPLOY_PREPARE_GENES", "7")
    finished = invoke("prepare", "data", "--out", "out", "-v")
    assert "--genes 7: from $TRIPLEX_DEPLOY_PREPARE_GENES" in finished.err


@pytest.mark.parametrize("name", ["EXECUTOR", "ENGINE"])
def test_a_variable_may_have_the_old_name(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"TRIPLEX_DEPLOY_STUDY_{name}", "slurm")
    finished = invoke("study", "demo", "--out", "out")
    assert finished.status == 2
    assert "slurm" in finished.err


def test_help_works_without_the_libraries_of_an_extra(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triplex_deploy.training.prepare_options", None)
    shown = invoke("prepare", "--help")
    assert shown.status == 0
    assert "--format" in shown.out
    assert invoke("prepare", "data", "--format", "st", "--out", "out").status == 1
