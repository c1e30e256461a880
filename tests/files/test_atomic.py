"""A file or folder appears complete under its name, or not at all."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_folder, atomic_path, atomic_paths
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


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_missing_folders_are_made_and_removed_again_on_failure(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result"
    with suppress(InterruptedWriteError), write(path) as temporary:
        (temporary.mkdir if write is atomic_folder else temporary.touch)()
        raise InterruptedWriteError
    assert list(tmp_path.iterdir()) == []
    with write(path) as temporary:
        (temporary.mkdir if write is atomic_folder else temporary.touch)()
    assert [part.name for part in path.parent.iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/result.txt", "file is not a folder"),
        ("file/absent/result.txt", "file is not a folder"),
        (".", "is a folder; give the name"),
    ],
)
def test_place_that_cannot_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message), atomic_path(tmp_path / name):
        pytest.fail("the block must not run")


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_several_files_get_their_names_together(tmp_path: Path) -> None:
    first, second = tmp_path / "m.json", tmp_path / "m.png"
    second.write_text("old")
    with atomic_paths(first, second) as (one, two):
        one.write_text("new")
        assert not first.exists()
        two.write_text("new")
        assert second.read_text() == "old"
    assert (first.read_text(), second.read_text()) == ("new", "new")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    first, second = tmp_path / "m.json", tmp_path / "m.png"
    second.write_text("old")

    def write() -> None:
        with atomic_paths(first, second) as (one, _):
            one.write_text("new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"m.json: cannot be written \(No space left"):
        write()
    assert list(tmp_path.iterdir()) == [second]
    assert second.read_text() == "old"


def _write_all(paths: list[Path]) -> None:
    with atomic_paths(*paths) as temporary:
        for path in temporary:
            path.write_text("new")


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_cannot_be_given_leaves_all_as_they_were(
    failing: int, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    paths[0].write_text("old")
    paths[2].write_text("old")
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target == paths[failing] and path.suffix == ".tmp":
            raise OSError(errno.EPERM, "Operation not permitted")
        return rename(path, target)

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", fail)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match="not permitted"):
        _write_all(paths)
    assert not paths[1].exists()
    assert sorted(tmp_path.iterdir()) == [paths[0], paths[2]]
    assert paths[2].read_text() == "old"
    assert paths[0].read_text() == ("old" if links or failing == 0 else "new")


def test_an_error_of_a_writer_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    def write() -> None:
        paths = tmp_path / "m.json", tmp_path / "m.png"
        with atomic_paths(*paths) as (_, picture), atomic_path(picture):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError) as caught:
        write()
    assert str(caught.value).startswith(f"{tmp_path / 'm.png'}: cannot be written")


def test_a_link_among_several_targets_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(OutputError, match="is a link"),
        atomic_paths(tmp_path / "a", tmp_path / "b"),
    ):
        pytest.fail("the block must not run")
