"""Rows of a slide list become slides; a faulty row is named by its line."""

from pathlib import Path

import pytest

from triplex_deploy.cohort.inputs import is_slide_list, read_slide_list
from triplex_deploy.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.svs", "b c.svs", "ü.svs", "spots.csv"):
        (tmp_path / name).touch()
    return tmp_path


def _written(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_rows_are_read_in_order_with_paths_beside_the_list(folder: Path) -> None:
    path = _written(
        folder,
        "slide,spots,mpp,output\nb c.svs,spots.csv,0.5,run/b\nü.svs,,,\n\na.svs,,0.25,x.h5ad\n",
    )
    first, second, third = read_slide_list(path)
    assert (first.slide, first.spots, first.mpp) == (folder / "b c.svs", folder / "spots.csv", 0.5)
    assert first.output == "run/b"
    assert (second.slide, second.spots, second.mpp) == (folder / "ü.svs", None, None)
    assert second.output == "ü"
    assert (third.output, third.mpp) == ("x", 0.25)
    assert third.origin == f"{path} line 5"


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_delimiter_and_line_ends_are_those_of_the_file(
    folder: Path, delimiter: str, ending: str
) -> None:
    rows = [f"Slide{delimiter}MPP", f"a.svs{delimiter}0.5", ""]
    (entry,) = read_slide_list(_written(folder, "\ufeff" + ending.join(rows), "m.tsv"))
    assert (entry.slide.name, entry.mpp) == ("a.svs", 0.5)


def test_slide_given_with_its_full_path(folder: Path, tmp_path_factory) -> None:
    path = _written(tmp_path_factory.mktemp("elsewhere"), f"slide\n{folder / 'a.svs'}\n")
    assert read_slide_list(path)[0].slide == folder / "a.svs"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("slide,color\na.svs,red\n", ["line 1", "unknown column 'color'"]),
        ("path\na.svs\n", ["line 1", "no column slide"]),
        ("", ["line 1", "no column slide"]),
        ("slide,slide\na.svs,a.svs\n", ["line 1", "twice"]),
        ("slide\na.svs\ngone.svs\n", ["line 3", "gone.svs", "no such file"]),
        ("slide,spots\na.svs,gone.csv\n", ["line 2", "spots", "gone.csv"]),
        ("slide,mpp\na.svs,half\n", ["line 2", "'half'"]),
        ("slide,mpp\na.svs,-1\n", ["line 2", "'-1'"]),
        ("slide,mpp\na.svs,nan\n", ["line 2", "'nan'"]),
        ("slide,mpp\n,0.5\n", ["line 2", "no slide"]),
        ("slide\n.\n", ["line 2", "is a folder"]),
        ("slide,output\na.svs,../x\n", ["line 2", "below the --out folder"]),
        ("slide,output\na.svs,/x\n", ["line 2", "below the --out folder"]),
        ("slide,output\na.svs,.h5ad\n", ["line 2", "below the --out folder"]),
        ("slide,mpp\na.svs,0.5,9\n", ["line 2", "3 cells for 2 columns"]),
        ('slide,mpp\n"a.svs,0.5\n', ["line 2", "a quote is opened and not closed", "CSV"]),
        ("slide\n\n", ["no slides"]),
    ],
)
def test_fault_is_one_line_with_its_place(folder: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_slide_list(_written(folder, text))
    for part in ("list.csv", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_refused(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_bytes("slide\nü.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read_slide_list(path)


def test_missing_slide_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such slide list"):
        read_slide_list(tmp_path / "m.csv")


def test_slide_list_is_known_by_its_ending() -> None:
    assert is_slide_list(Path("a/M.CSV"))
    assert is_slide_list(Path("m.tsv"))
    assert not is_slide_list(Path("csv.svs"))
