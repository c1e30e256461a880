"""A file or folder appears complete under its name, or not at all."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_folder, atomic_path
from triplex_deploy.files.digest import sha256_of


class InterruptedWriteError(Exception):
    pass


def test_file_replaces_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_file_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with suppress(InterruptedWriteError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise InterruptedWriteError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_replaces_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result.zarr"
    path.mkdir()
    (path / "old").touch()
    with atomic_folder(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_folder_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result.zarr"
    path.mkdir()
    (path / "old").touch()
    with suppress(InterruptedWriteError), atomic_folder(path) as temporary:
        temporary.mkdir()
        raise InterruptedWriteError
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_was_not_made_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result.zarr"
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"), atomic_folder(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_name_of_maximum_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    with atomic_path(path) as temporary:
        temporary.write_text("content")
    assert path.read_text() == "content"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/result.txt", "is not a folder; create it first"),
        (".", "is a folder; give the name"),
    ],
)
def test_place_that_cannot_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=message), atomic_path(tmp_path / name):
        pytest.fail("the block must not run")


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
