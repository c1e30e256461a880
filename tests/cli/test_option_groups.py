"""The help of ``predict`` lists its options in groups, the common ones first."""

import re

import click
import pytest

from triplex_deploy.cli.main import run
from triplex_deploy.cli.option_groups import REST, GroupedCommand
from triplex_deploy.cli.predict import GROUPS, command


def test_help_of_predict_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    titles = re.findall(r"^(\S[^\n]*):\n", text, re.M)
    assert titles == list(GROUPS)
    first = text.partition(f"{titles[0]}:")[2].partition(f"{titles[1]}:")[0]
    assert re.findall(r"^  (--[\w-]+)", first, re.M) == list(GROUPS[titles[0]])


def test_every_option_of_predict_is_in_one_group() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert len(set(named)) == len(named)
    options = {name for option in command.params for name in option.opts if name.startswith("--")}
    assert set(named) - {"--help"} <= options
    ungrouped = [
        option.opts
        for option in command.params
        if isinstance(option, click.Option) and not set(option.opts) & set(named)
    ]
    assert ungrouped == []


def test_an_option_without_a_group_is_listed_last() -> None:
    @click.command(cls=GroupedCommand, groups={"Usual": ["--b", "--a"]})
    @click.option("--a")
    @click.option("--new")
    @click.option("--b")
    def some(a: str, b: str, new: str) -> None:
        """Do something."""

    with click.Context(some) as context:
        text = some.get_help(context)
    assert text.index("Usual:") < text.index("--b") < text.index("--a")
    assert text.index(f"{REST}:") < text.index("--new")
