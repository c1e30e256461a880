"""Run the command line in this process, as a user would type it: the fixture ``invoke``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from triplex_deploy.cli.main import run


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    status: int
    """Exit status."""
    out: str
    """What it wrote to stdout."""
    err: str
    """What it wrote to stderr."""

    @property
    def error(self) -> str:
        """Its one error line; an assertion fails if there is none or several."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "unexpected " not in line
        assert self.status == 1
        return line


Invoke = Callable[..., Finished]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """The command line in this process."""

    def call(*arguments: object) -> Finished:
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(status, captured.out, captured.err)

    return call
