"""Paths that the system refuses are named with a remedy by every command, and are no bug."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.invoke import Invoke

pytestmark = [pytest.mark.lengthy, pytest.mark.torch]

PREDICT = "predict SLIDE --bundle GOOD --out OUT"
COMMANDS = (
    "predict PATH --bundle GOOD --out OUT",
    "predict SLIDE --bundle PATH --out OUT",
    "predict SLIDE --bundle GOOD --out PATH",
    f"{PREDICT} --spots PATH",
    f"{PREDICT} --spots PATH --pool-um 50",
    f"{PREDICT} --mask PATH",
    f"{PREDICT} --cache PATH",
    "prepare PATH --out OUT",
    "prepare DATASET --out PATH",
    "train PATH --out OUT",
    "train DATASET --out OUT --config PATH",
    "export PATH --out OUT",
    "encoder export --preset uni --weights PATH --out OUT",
    "verify PATH",
    "report PATH",
    "convert PATH --to csv",
    "evaluate PATH",
    "evaluate PATH --truth PATH",
    "study PATH --out OUT",
)
PATHS: dict[str, Callable[[Path], Path]] = {
    "below a file": lambda folder: folder / "file.txt" / "x",
    "too long": lambda folder: folder / ("x" * 300),
}


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_path_that_cannot_be(
    command: str, kind: str, invoke: Invoke, tmp_path: Path, demo_export: Path
) -> None:
    (tmp_path / "file.txt").write_text("a file")
    (tmp_path / "dataset").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "slide.png")
    places = {
        "PATH": PATHS[kind](tmp_path),
        "GOOD": demo_export / "bundle",
        "SLIDE": tmp_path / "slide.png",
        "DATASET": tmp_path / "dataset",
        "OUT": tmp_path / "out",
    }
    finished = invoke(*(places.get(word, word) for word in command.split()))
    assert finished.status in (1, 2, 3), finished.err
    assert "unexpected" not in finished.err
    assert "Traceback" not in finished.err
