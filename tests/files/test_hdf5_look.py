"""An HDF5 file that hangs or ends the library is one error."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.files import hdf5_child, hdf5_look
from triplex_deploy.files.hdf5_look import look_first_at_hdf5


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.h5ad"
    with h5py.File(path, "w") as file:
        file["obsm/spatial"] = np.ones((3, 2))
        file["obs/again"] = h5py.SoftLink("/obs")
        file["obsm/lost"] = h5py.SoftLink("/nowhere")
    return path


def test_a_sound_file_and_a_text_pass(table: Path, tmp_path: Path) -> None:
    look_first_at_hdf5(table, SpotsError, ("obs", "obsm"))
    (tmp_path / "text.h5ad").write_text("no HDF5")
    look_first_at_hdf5(tmp_path / "text.h5ad", SpotsError, ("obs",))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", r"fails on it \(SIGABRT\); copy it again"),
        ("import time; time.sleep(60)", "cannot be read within 1 s; copy it again"),
    ],
)
def test_what_ends_or_stops_the_child_is_one_error(
    program: str, reason: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(program)
    monkeypatch.setattr(hdf5_look, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(hdf5_look, "BASE_SECONDS", 1.0)
    with pytest.raises(SpotsError, match=reason):
        look_first_at_hdf5(table, SpotsError, ("obs", "obsm"))


class Damaged:
    """Attributes that cannot be listed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.attrs = self

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("wrong version")

    def get(self, name: str) -> None:
        self.asked.append(name)
        raise OSError("no such attribute")


def test_attributes_that_cannot_be_listed_are_asked_for_all_the_same() -> None:
    """One of them may hang, and readers ask for it by its name."""
    item = Damaged()
    hdf5_child._read_attributes(item)
    assert tuple(item.asked) == hdf5_child.ASKED_FOR
