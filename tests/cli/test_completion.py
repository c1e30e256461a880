"""The completion scripts, and the completions that a shell gets."""

import json
import shutil
import subprocess

import pytest

from tests.cli.conftest import Invoke
from triplex_deploy.cli.main import run


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o nosort -F _triplex_deploy_completion triplex-deploy"),
        ("zsh", "#compdef triplex-deploy"),
        ("fish", "complete --no-files --command triplex-deploy"),
    ],
)
def test_script_of_each_shell_is_printed(invoke: Invoke, shell: str, line: str) -> None:
    finished = invoke("completion", shell)
    assert finished.status == 0
    assert line in finished.out
    assert "_TRIPLEX_DEPLOY_COMPLETE" in finished.out


def test_script_as_json(invoke: Invoke) -> None:
    summary = json.loads(invoke("completion", "zsh", "--json").out)
    assert summary["shell"] == "zsh"
    assert summary["script"].startswith("#compdef")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_accepts_its_script(invoke: Invoke) -> None:
    script = invoke("completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pre"], {"predict", "prepare"}),
        (["predict", "--on-b"], {"--on-bad-tile"}),
        (["predict", "--layout", "v"], {"visium"}),
    ],
)
def test_commands_options_and_choices_are_offered(
    words: list[str],
    offered: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_TRIPLEX_DEPLOY_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["triplex-deploy", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit, match="0"):
        run([])
    printed = capsys.readouterr().out
    assert {line.partition(",")[2] for line in printed.split()} == offered
