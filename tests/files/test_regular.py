"""Only regular files are opened; pipes and devices are refused at once."""

import os
from pathlib import Path

import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.regular import open_regular, require_regular_file


def test_a_file_and_a_link_to_it_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        require_regular_file(tmp_path / name, SpotsError)
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


def test_others_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            open_regular(path)
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            sha256_of(path)
        with pytest.raises(SpotsError, match=r"is a (pipe|folder|device); pass a file"):
            require_regular_file(path, SpotsError)


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match=r"absent: no such spots file; check the path"):
        require_regular_file(tmp_path / "absent", SpotsError, "spots file")
    with pytest.raises(SpotsError, match="File name too long; check the path"):
        require_regular_file(tmp_path / ("x" * 300), SpotsError)
