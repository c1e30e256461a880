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


def test_folders_of_slides_that_are_left_out_are_named(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("scans/1/f.dcm", "many/notes.txt"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).touch()
    _names(tree)
    assert "left out (low); --recursive takes them" in caplog.text
    caplog.clear()
    _names(tree, recursive=True)
    assert "--recursive" not in caplog.text


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


def _dicom(path: Path, series: str) -> None:
    uid = series.encode()
    path.parent.mkdir(exist_ok=True)
    length = len(uid).to_bytes(2, "little")
    path.write_bytes(bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI" + length + uid)


def _outputs(*arguments: Path, recursive: bool = False) -> dict[str, str]:
    return {e.output: e.slide.name for e in find_slides(arguments, recursive)}


def test_a_folder_of_one_dicom_slide_is_named_after_the_folder(tree: Path) -> None:
    for number in (2, 10, 1):
        _dicom(tree / "biopsy.2" / f"{number}.dcm", "1.2.840")
    assert _outputs(tree / "biopsy.2") == {"biopsy.2": "1.dcm"}
    assert _outputs(tree, recursive=True)["biopsy.2"] == "1.dcm"
    slide_list = tree / "list.csv"
    slide_list.write_text("slide,output\nbiopsy.2,\nbiopsy.2/2.dcm,second\n")
    assert _outputs(slide_list) == {"biopsy.2": "1.dcm", "second": "2.dcm"}


def test_every_series_of_a_folder_is_a_slide(tree: Path) -> None:
    for name, series in (("a1", "1.2"), ("a2", "1.2"), ("b1", "1.3"), ("b2", "1.3")):
        _dicom(tree / "two" / f"{name}.dcm", series)
    assert _outputs(tree / "two") == {"a1": "a1.dcm", "b1": "b1.dcm"}
    slide_list = tree / "list.csv"
    slide_list.write_text("slide\ntwo\n")
    with pytest.raises(ConfigError, match="not one of a single DICOM slide"):
        find_slides([slide_list])


def test_a_dicom_slide_beside_other_slides_keeps_the_name_of_its_file(tree: Path) -> None:
    _dicom(tree / "low" / "1.dcm", "1.2")
    assert _outputs(tree / "low") == {"1": "1.dcm", "c": "c.ndpi", "d": "d.mrxs"}


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
