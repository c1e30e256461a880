"""Which checkpoints `export --ensemble` takes, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.cli.main import run
from triplex_deploy.errors import ParityError
from triplex_deploy.exporters import export


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command would export; it fails instead."""
    given: list[Any] = []

    def record(checkpoints: Any, out: Path, options: Any) -> None:
        given.append(checkpoints)
        raise ParityError("recorded")

    monkeypatch.setattr(export, "export_bundle", record)
    return given


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """A run of three folds, one of them without a checkpoint."""
    for fold in ("fold-2", "fold-10", "fold-0", "fold-1"):
        (tmp_path / "run" / fold).mkdir(parents=True)
        if fold != "fold-1":
            (tmp_path / "run" / fold / "checkpoint.ckpt").touch()
    return tmp_path / "run"


def test_folds_are_taken_in_order(folds: Path, taken: list[Any], tmp_path: Path) -> None:
    out = str(tmp_path / "bundle")
    assert run(["export", str(folds), "--ensemble", "--out", out]) == 1
    names = [path.parent.name for path in taken[0]]
    assert names == ["fold-0", "fold-2", "fold-10"]
    assert run(["export", str(folds), "--ensemble", "--members", "2", "--out", out]) == 1
    assert [path.parent.name for path in taken[1]] == names[:2]
    one = str(folds / "fold-2" / "checkpoint.ckpt")
    assert run(["export", one, str(folds), "--ensemble", "--members", "2", "--out", out]) == 1
    assert [path.parent.name for path in taken[2]] == ["fold-2", "fold-0"]
    assert run(["export", one, "--out", out]) == 1
    assert taken[3] == Path(one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.ckpt", "b.ckpt"], "2 checkpoints given: a bundle holds one model; name one, or add"),
        (["a.ckpt", "--members", "2"], "--members: counts the members of an ensemble"),
        (["a.ckpt", "--ensemble"], "--ensemble: 1 checkpoints found, 2 needed"),
        (["a.ckpt", "b.ckpt", "--ensemble", "--members", "3"], "2 checkpoints found, 3 needed"),
    ],
)
def test_wrong_numbers_are_refused(
    arguments: list[str],
    message: str,
    taken: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["export", *arguments, "--out", str(tmp_path / "bundle")]) == 1
    assert message in capsys.readouterr().err
    assert not taken
