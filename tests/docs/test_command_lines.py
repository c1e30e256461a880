"""Every command line in the documentation parses: its command, options and values exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.docs.pages import PAGES, ROOT, blocks
from triplex_deploy.cli.main import COMMANDS, LazyGroup, group

END_OF_COMMAND = {"&", "&&", ";", "|", ">", ">>", "2>"}


def _command_lines(page: Path) -> Iterator[list[str]]:
    """Arguments of each ``triplex-deploy`` in the page's shell blocks, one list each."""
    for block in blocks(page, "bash", "console", "sh", ""):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if "triplex-deploy " not in line or "<" in line:
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                del words[0]
            if words[:1] == ["triplex-deploy"]:
                stop = next((i for i, w in enumerate(words) if w in END_OF_COMMAND), len(words))
                yield words[1:stop]


def parse(arguments: list[str]) -> None:
    """Parse as the program would, without running; files need not exist."""
    context = click.Context(group, info_name="triplex-deploy")
    assert isinstance(group, LazyGroup)
    if arguments[0].startswith("-"):
        group.make_parser(context).parse_args(arguments)
        return
    name, command, rest = click.Group.resolve_command(group, context, list(arguments))
    assert command is not None
    try:
        command.make_context(name, rest, parent=context).close()
    except click.exceptions.Exit:
        return  # --help
    except click.BadParameter as error:
        absent_file = error.param is not None and isinstance(error.param.type, click.Path)
        if isinstance(error, click.MissingParameter) or not absent_file:
            raise


LINES = [
    pytest.param(line, id=f"{page.relative_to(ROOT)}: {' '.join(line)}")
    for page in PAGES
    for line in _command_lines(page)
]


@pytest.mark.parametrize("line", LINES)
def test_command_line_parses(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a --log-file may be made
    parse(line)


def test_example_of_every_help_text_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        epilog = command.epilog or ""
        words = shlex.split(epilog.split("Example: triplex-deploy ")[1].split(" -- ")[0])
        end = next((i for i, w in enumerate(words) if w == ">>" or w.endswith(".")), len(words))
        words = [*words[:end], *(word.rstrip(".") for word in words[end : end + 1] if word != ">>")]
        parse(words)


def test_wrong_lines_would_be_found() -> None:
    for wrong in ("predct slide.svs", "verify bundle --devise cpu", "verify", "completion tcsh"):
        with pytest.raises(click.UsageError):
            parse(wrong.split())


def test_every_command_is_shown_somewhere() -> None:
    shown = {values[0][0] for values in (param.values for param in LINES)}  # type: ignore[index]
    assert set(COMMANDS) <= shown
