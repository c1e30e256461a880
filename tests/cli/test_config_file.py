"""Defaults from files and the environment: who wins, what is refused, and that it is reported."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    working = tmp_path / "arbeit ä"
    working.mkdir()
    monkeypatch.chdir(working)
    return working


@pytest.fixture
def user_file(no_user_defaults: Path) -> Path:
    path = no_user_defaults / "triplex-deploy" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def _not_a_bundle(invoke: Invoke, *arguments: object) -> str:
    """The bundle that ``predict`` looked for in vain."""
    finished = invoke("predict", "slide.svs", "--out", "out", *arguments)
    assert finished.status == 1, finished.err
    return finished.err.splitlines()[-1].removeprefix("error: ").partition(":")[0]


def test_command_line_beats_environment_beats_project_beats_user(
    invoke: Invoke, folder: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "slide.svs").write_text("")
    user_file.write_text('[predict]\nbundle = "of the user"\n')
    assert _not_a_bundle(invoke) == "of the user"
    project = folder / "triplex-deploy.toml"
    project.write_text('[predict]\nbundle = "of the project"\n', encoding="utf-8")
    assert _not_a_bundle(invoke) == "of the project"
    monkeypatch.setenv("TRIPLEX_DEPLOY_PREDICT_BUNDLE", "of the environment")
    assert _not_a_bundle(invoke) == "of the environment"
    assert _not_a_bundle(invoke, "--bundle", "typed") == "typed"


def test_defaults_are_told_with_their_source(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "triplex-deploy.toml").write_text('[verify]\ndevice = "cuda:7"\n')
    printed = invoke("verify", "nothing", "-v").err
    assert "--device cuda:7: from triplex-deploy.toml" in printed
    monkeypatch.setenv("TRIPLEX_DEPLOY_VERIFY_DEVICE", "cuda:8")
    printed = invoke("verify", "nothing", "-v").err
    assert "--device cuda:8: from $TRIPLEX_DEPLOY_VERIFY_DEVICE" in printed
    assert "--device" not in invoke("verify", "nothing", "-v", "--device", "cpu").err


def test_doctor_says_which_files_are_read(invoke: Invoke, folder: Path, user_file: Path) -> None:
    user_file.write_text("")
    (folder / "triplex-deploy.toml").write_text("")
    findings = json.loads(invoke("doctor", "--json").out)["findings"]
    detail = next(finding["detail"] for finding in findings if finding["name"] == "defaults")
    assert detail == f"{folder / 'triplex-deploy.toml'}, then {user_file}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[predict]\nmemry-gb = 8", "[predict] memry-gb: no such option; did you mean memory-gb?"),
        ("[predcit]\n", "[predcit] is not a command; did you mean predict?"),
        ('device = "cpu"', "device is outside of a table; put it below its command"),
        ("[predict", "not TOML: "),
        ("[predict]\nmemory-gb = -1", "[predict] memory-gb: -1.0 is not in the range"),
        ('[predict]\nresume = "yes"', "[predict] resume: 'yes' is neither true nor false"),
        ("[predict]\nlayout = 'hexagon'", "[predict] layout: 'hexagon' is not one of"),
        ("[predict]\nmemory-gb = {a = 1}", "[predict] memory-gb: {'a': 1} is no single value"),
        ("[predict]\ngenes = [['GNAS']]", "[predict] genes: [['GNAS']] is no single value"),
        ("[predict]\nbatch-size = inf", "[predict] batch-size: "),
        ("[predict]\nthreads = inf", "[predict] threads: inf is no value of it"),
        ("[predict]\nmemory-gb = 1979-05-27", "[predict] memory-gb: "),
        ("[predict]\n\xff = 1", "not TOML: "),
    ],
)
def test_mistake_in_the_file_is_one_line_that_names_it(
    invoke: Invoke, folder: Path, text: str, named: str
) -> None:
    (folder / "triplex-deploy.toml").write_text(text, encoding="latin-1")
    finished = invoke("predict", "slide.svs", "--bundle", "b", "--out", "out")
    assert finished.status == 1
    (line,) = finished.err.splitlines()
    assert line.startswith("error: triplex-deploy.toml: ")
    assert named in line


def test_help_answers_despite_a_broken_file(invoke: Invoke, folder: Path) -> None:
    (folder / "triplex-deploy.toml").write_text("[predict")
    assert invoke("predict", "--help").status == 0


def test_lists_and_home_folders_are_understood(
    invoke: Invoke, folder: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of me")
    user_file.write_text('[export]\ncalibration = "one.svs"\n')
    (folder / "triplex-deploy.toml").write_text(
        '[predict]\nbundle = "~/models"\ngenes = ["GNAS", "FASN"]\nbatch_size = 3\n'
    )
    (folder / "slide.svs").write_text("")
    finished = invoke("predict", "slide.svs", "--out", "out", "-v")
    assert "--genes GNAS,FASN: from triplex-deploy.toml" in finished.err
    assert "--batch-size 3: from triplex-deploy.toml" in finished.err
    assert "error: /home/of me/models: " in finished.err
    refused = invoke("export", "model.ckpt", "--out", "bundle")
    assert "[export] calibration: takes a list; write ['one.svs']" in refused.err


@pytest.mark.parametrize("key", ["executor", "engine"])
def test_renamed_option_is_known_by_both_names(invoke: Invoke, folder: Path, key: str) -> None:
    (folder / "slide.svs").write_text("")
    project = folder / "triplex-deploy.toml"
    project.write_text(f'[predict]\n{key} = "local"\n', encoding="utf-8")
    assert _not_a_bundle(invoke, "--bundle", "typed") == "typed"
    project.write_text(f'[predict]\n{key} = "slurm"\n', encoding="utf-8")
    finished = invoke("predict", "slide.svs", "--bundle", "b", "--out", "out")
    assert finished.status == 1
    assert "slurm" in finished.err


def test_help_shows_the_new_name_of_a_renamed_option(invoke: Invoke) -> None:
    shown = invoke("predict", "--help").out
    assert "--executor" in shown
    assert "--engine" not in shown


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("predict", 'log-file = "~/.bashrc"'),
        ("predict", 'out = "/somewhere"'),
        ("predict", 'cache = "/somewhere"'),
        ("predict", 'on-bad-tile = "skip"'),
        ("export", "force = true"),
        ("export", 'trt-cache = "x"'),
        ("train", 'config = "x.yaml"'),
        ("prepare", 'tile-encoder = "x.onnx"'),
    ],
)
def test_working_folder_cannot_name_files_or_weaken_checks(
    invoke: Invoke, folder: Path, user_file: Path, command: str, line: str
) -> None:
    text = f"[{command}]\n{line}\n"
    (folder / "triplex-deploy.toml").write_text(text)
    arguments = ("slide.svs", "--bundle", "b", "--out", "o") if command == "predict" else ("x",)
    finished = invoke(command, *arguments, "-q")
    assert finished.status == 1
    assert "may not set this" in finished.err or "no such option" in finished.err
    (folder / "triplex-deploy.toml").unlink()
    user_file.write_text(text)
    assert "may not set this" not in invoke(command, *arguments, "-q").err


def test_one_line_says_what_the_working_folder_set(invoke: Invoke, folder: Path) -> None:
    (folder / "triplex-deploy.toml").write_text(
        '[verify]\ndevice = "cuda:7\\u001b[31m\\nerror: forged"\n'
    )
    lines = invoke("verify", "nothing").err.splitlines()
    assert lines[0].startswith("triplex-deploy.toml in this folder sets --device 'cuda:7")
    assert not [line for line in lines if line.startswith("error: forged") or "\x1b" in line]
    assert "sets" not in invoke("verify", "nothing", "--device", "cpu").err
    assert "sets" not in invoke("verify", "nothing", "-q").err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_and_folder_of_that_name_are_refused(
    invoke: Invoke, folder: Path, make: Callable[[Path], None]
) -> None:
    make(folder / "triplex-deploy.toml")
    finished = invoke("verify", "nothing")
    assert finished.status == 1
    assert "move it away" in finished.err
