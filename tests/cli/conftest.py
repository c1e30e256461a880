"""Run the command line in this process, as a user would type it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from triplex_deploy.cli.main import run
from triplex_deploy.demo.slide import synthesise_slide


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


Invoke = Callable[..., Finished]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*arguments: object) -> Finished:
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 x 700 px of made-up tissue at 0.5 um/px: a grid of a few tiles."""
    path = tmp_path_factory.mktemp("cli") / "my slide.tif"
    synthesise_slide(path, 700, 700, 0.5, seed=5)
    return path
