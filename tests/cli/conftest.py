"""Run the command line in this process, as a user would type it."""

from pathlib import Path

import pytest

from tests.invoke import Finished, Invoke, invoke
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.runtime.model import RunnableBundle

__all__ = ["Finished", "Invoke", "assert_refused", "invoke"]


@pytest.fixture(autouse=True)
def no_user_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the defaults of whoever runs the tests; where a user's would be looked for instead."""
    folder = tmp_path / "user"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 x 700 px of made-up tissue at 0.5 um/px: a grid of a few tiles."""
    path = tmp_path_factory.mktemp("cli") / "my slide.tif"
    synthesize_slide(path, 700, 700, 0.5, seed=5)
    return path


@pytest.fixture
def predict(invoke: Invoke, bundle: RunnableBundle, tmp_path: Path):
    """``predict`` with the bundle into ``tmp_path/out``."""

    def call(*arguments: object):
        return invoke("predict", *arguments, "--bundle", bundle.path, "--out", tmp_path / "out")

    return call


def assert_refused(finished: Finished, out: Path, *named: str) -> None:
    """Exit 1, one line that says what, and nothing written but, hidden, features to go on from."""
    assert finished.status == 1
    lines = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.err
    assert "Traceback" not in finished.err
    for text in named:
        assert text in lines[0]
    assert finished.out == ""
    visible = [path for path in out.glob("*") if not path.name.startswith(".")]
    assert visible == []
