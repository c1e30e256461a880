import importlib.util
from pathlib import Path

import pytest

from triplex_deploy.cli.convert import command as convert_command
from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.outputs import Prediction, formats
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.formats import FORMATS, convert, require_also, write_also

FILES = [name for name in FORMATS if name != "spatialdata"]


def test_the_command_offers_every_format() -> None:
    (option,) = (param for param in convert_command.params if "--to" in param.opts)
    assert option.type.to_info_dict()["choices"] == tuple(FORMATS)  # type: ignore[typeddict-item]
    for name, known in FORMATS.items():
        assert f"{name} {known.description}" in (convert_command.help or "")


def test_several_formats_are_named_after_the_slide(prediction: Prediction, tmp_path: Path) -> None:
    paths = write_also(prediction, tmp_path, ["csv", "geojson", "ome-tiff"], ["FASN"])
    names = ["section A.csv", "section A.geojson", "section A.ome.tif"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / names[0]).read_text().splitlines()[0].endswith("level0_y_px,FASN")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_ours_is_replaced_and_a_foreign_one_kept(
    prediction: Prediction, tmp_path: Path, name: str
) -> None:
    library = FORMATS[name].library
    if library:
        pytest.importorskip(library)
    path = tmp_path / f"a{FORMATS[name].suffix}"
    convert(prediction, name, path)
    size = path.stat().st_size
    convert(prediction, name, path, genes=["FASN"])
    assert path.stat().st_size < size
    for foreign in (b"", b'{"type":"FeatureCollection","features":[]}', b"II*\0\x08\0\0\0\0\0\0\0"):
        path.write_bytes(foreign)
        with pytest.raises(
            OutputError, match=f"this file is not a {name} written by triplex-deploy"
        ):
            convert(prediction, name, path)
        assert path.read_bytes() == foreign
    assert list(tmp_path.iterdir()) == [path]


def test_a_foreign_folder_is_kept(prediction: Prediction, tmp_path: Path) -> None:
    folder = tmp_path / "section A.spatialdata.zarr"
    (folder / "images").mkdir(parents=True)
    (folder / "zarr.json").write_text('{"attributes": {"spatialdata_attrs": {}}}')
    with pytest.raises(OutputError, match="this folder is not a csv written by"):
        convert(prediction, "csv", folder)
    if importlib.util.find_spec("spatialdata") is not None:
        with pytest.raises(OutputError, match="this folder is not a spatialdata written by"):
            write_also(prediction, tmp_path, ["csv", "spatialdata"])
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # not even the CSV


def test_a_missing_library_is_told_before_any_work(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r"spatialdata is not installed; run .*\[files\]"):
        require_also("slide", tmp_path, ["csv", "spatialdata"])


def test_what_cannot_be_asked_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'xlsx': not known; use csv, parquet"):
        convert(prediction, "xlsx", tmp_path / "a.xlsx")
    with pytest.raises(ConfigError, match=r"gene GNSA: .*did you mean GNAS\?"):
        convert(prediction, "csv", tmp_path / "a.csv", genes=["GNSA"])
    with pytest.raises(ConfigError, match="a csv has no pixels"):
        convert(prediction, "csv", tmp_path / "a.csv", pixel_um=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_is_not_there_is_made(
    prediction: Prediction, tmp_path: Path, name: str
) -> None:
    convert(prediction, name, tmp_path / "new" / "folder" / "a")
    assert (tmp_path / "new" / "folder" / "a").is_file()


def test_a_new_format_is_a_registration_away(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(chosen: Prediction, path: Path) -> None:
        path.write_text("names of genes: " + " ".join(chosen.genes))

    def is_own(path: Path) -> bool:
        return path.read_text().startswith("names of genes: ")

    names = FileFormat("names", ".names", "is a list of genes", write, is_own)
    monkeypatch.setitem(FORMATS, names.name, names)
    (path,) = write_also(prediction, tmp_path, ["names"], ["FASN"])
    assert path.name == "section A.names"
    assert convert(prediction, "names", path, ["GNAS"]).read_text() == "names of genes: GNAS"
    path.write_text("my own list")
    with pytest.raises(OutputError, match="is not a names written by triplex-deploy"):
        convert(prediction, "names", path)
