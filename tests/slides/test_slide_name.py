"""The name of a slide, after which its results are called."""

from pathlib import Path

import pytest

from triplex_deploy.slides.slide_files import slide_name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("slide.svs", "slide"),
        ("OS-1.ome.tif", "OS-1"),
        ("B.OME.TIFF", "B"),
        ("well.ome.zarr", "well"),
        ("S1.2.tif", "S1.2"),
        ("chrome.tif", "chrome"),
        (".ome.tif", ".ome"),
        ("a" * 300 + ".dcm", "a" * 300),
    ],
)
def test_a_slide_is_called_as_its_file_without_the_suffix(file: str, name: str) -> None:
    assert slide_name(Path("folder") / file) == name


def test_a_dicom_file_of_several_has_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "patient 7"
    folder.mkdir()
    (folder / "1.2.840.dcm").write_bytes(b"x")
    assert slide_name(folder / "1.2.840.dcm") == "1.2.840"
    (folder / "1.2.841.dcm").write_bytes(b"y")
    assert slide_name(folder / "1.2.840.dcm") == "patient 7"
