"""Text is read in every usual form, and an end to it is found before memory is full."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import pytest

from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import read_text
from triplex_deploy.files.damaged import damage_as

TEXT = "a,b\nü,2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "packed.csv"])
def test_every_form_gives_the_same_text(
    name: str, ending: str, encoding: str, tmp_path: Path
) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""  # Python writes none for these two
    content = (mark + TEXT.replace("\n", ending)).encode(encoding)
    (tmp_path / name).write_bytes(content if name == "t.csv" else gzip.compress(content))
    assert read_text(tmp_path / name, DatasetError, "table") == TEXT


def test_text_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"1,1\n" * 5_000_000))
    with pytest.raises(DatasetError, match="longer than 1 MiB, which no table is"):
        read_text(tmp_path / "t.csv.gz", DatasetError, "table", limit=1 << 20)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(TEXT.encode())[:-9], "cannot be read"),
        ("ü".encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
        (b"a\xc3", "not UTF-8 text"),
        (b"\xff\xfea", "not UTF-8 text"),
    ],
)
def test_damage_is_one_error_without_the_word_for_a_bug(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=said) as caught:
        read_text(tmp_path / "t.csv", DatasetError, "table")
    assert "unexpected" not in str(caught.value).lower()


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DatasetError, match="is a pipe"):
        read_text(tmp_path / "t.csv", DatasetError, "table")


@pytest.mark.parametrize(
    "error", [zlib.error("unexpected end of data"), ValueError("Unexpected UTF-8 BOM")]
)
def test_damage_is_not_said_as_a_bug_is(error: Exception) -> None:
    with (
        pytest.raises(DatasetError, match=r"t: wrong (end of data|UTF-8 BOM); copy it"),
        damage_as(DatasetError, "t", "copy it"),
    ):
        raise error
