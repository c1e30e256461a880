"""Which slides files, folders, patterns and slide lists stand for."""

import gzip
import logging
import os
from pathlib import Path

import pytest

from triplex_deploy.cohort.inputs import find_slides
from triplex_deploy.errors import ConfigError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.svs",
        "a [1].TIF",
        "notes.txt",
        ".hidden.svs",
        "low/c.ndpi",
        "low/d.mrxs",
        "low/d/thumb.jpg",
        ".old/e.svs",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def _names(*arguments: object, recursive: bool = False) -> list[str]:
    found = find_slides([str(argument) for argument in arguments], recursive)
    return [entry.slide.name for entry in found]


def test_folder_stands_for_the_slides_in_it(tree: Path) -> None:
    assert _names(tree) == ["a [1].TIF", "b.svs"]


def test_recursive_looks_below_but_not_into_a_mirax_slides_data(tree: Path) -> None:
    assert _names(tree, recursive=True) == ["a [1].TIF", "b.svs", "c.ndpi", "d.mrxs"]


def test_pattern_is_expanded_and_a_file_of_that_very_name_is_not(tree: Path) -> None:
    assert _names(tree / "*.svs") == ["b.svs"]
    assert _names(tree / "**/*.ndpi") == ["c.ndpi"]
    assert _names(tree / "a [1].TIF") == ["a [1].TIF"]


def test_slide_named_twice_counts_once_in_the_first_place(tree: Path) -> None:
    assert _names(tree / "b.svs", tree, tree / "*.svs") == ["b.svs", "a [1].TIF"]


def test_slide_list_may_stand_among_files(tree: Path) -> None:
    (tree / "low" / "m.csv").write_text("slide,output\nc.ndpi,first\nc.ndpi,second\n")
    found = find_slides([tree / "b.svs", tree / "low" / "m.csv"])
    assert [entry.output for entry in found] == ["b", "first", "second"]


def test_missing_file_is_kept_for_its_turn(tree: Path) -> None:
    assert _names(tree / "gone.svs", tree / "b.svs") == ["gone.svs", "b.svs"]


def test_pattern_without_a_match_and_folder_without_slides_are_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        _names(tree / "*.czi")
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError, match="--recursive looks below"):
        _names(tree / "empty")


def test_dicom_files_of_a_folder_are_left_out_with_a_warning(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tree / "low" / "1.dcm").touch()
    (tree / "low" / "2.dcm").touch()
    with caplog.at_level(logging.WARNING):
        assert _names(tree / "low") == ["c.ndpi", "d.mrxs"]
    assert "2 DICOM files left out" in caplog.text
    assert _names(tree / "low" / "1.dcm") == ["1.dcm"]


def test_what_is_no_file_is_left_out_in_one_line(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tree / "low" / "pipe.svs")
    (tree / "low" / "zero.tif").symlink_to("/dev/zero")
    (tree / "low" / "gone.tif").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "low" / "notes.txt")
    with caplog.at_level(logging.WARNING):
        assert _names(tree / "low") == ["c.ndpi", "d.mrxs"]
    (record,) = caplog.records
    assert record.message == (
        f"{tree / 'low'}: 3 left out that are no files: gone.tif (a broken link), "
        "pipe.svs (a pipe), zero.tif (a device)"
    )


def test_a_packed_slide_list_is_read(tree: Path) -> None:
    path = tree / "low" / "list.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfslide\r\nc.ndpi\r\n"))
    assert _names(path) == ["c.ndpi"]
