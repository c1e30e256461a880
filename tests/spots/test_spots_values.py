"""Flags, places, names and encodings of spots files mean the same in every format."""

import gzip
import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import Spots, check_spots, file, read_mask, read_spots, table

LIST = "A-1,1,0,0,2.5,1.25\nB-1,0,0,2,2.5,5.5\nC-1,1,0,4,2.5,9.5\n"
"""Space Ranger's list without a header; the pixels have fractions."""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def h5ad(path: Path, **obs: object) -> Path:
    index = [f"cell{n}" for n in range(3)]
    data = anndata.AnnData(obs=pd.DataFrame(obs, index=index))
    data.obsm["spatial"] = np.array([[1.0, 1.0], [5.0, 1.0], [9.0, 1.0]])
    data.write_h5ad(path)
    return path


@pytest.mark.parametrize("flags", ["1 0 1", "1.0 0.0 1.0", "True False True", "TRUE FALSE true"])
@pytest.mark.parametrize("name", ["selected", "in_tissue"])
def test_flags_are_numbers_or_words(name: str, flags: str, tmp_path: Path) -> None:
    rows = [f"{4 * n + 1},1,0,{n},{flag}\n" for n, flag in enumerate(flags.split())]
    header = f"pixel_x,pixel_y,array_row,array_col,{name}\n"
    spots = read_spots(write(tmp_path / "s.csv", header + "".join(rows)))
    assert spots.grid_rc.tolist() == [[0, 0], [0, 2]]


@pytest.mark.parametrize("flag", ["", "nan", "yes", "2", "0.5", "-1", "1,5"])
def test_other_flags_are_refused(flag: str, tmp_path: Path) -> None:
    text = f"pixel_x\tpixel_y\tarray_row\tarray_col\tselected\n1\t1\t0\t0\t1\n5\t1\t0\t1\t{flag}\n"
    with pytest.raises(SpotsError, match=r"selected of spot 2 is .*, neither 0 nor 1; correct"):
        read_spots(write(tmp_path / "s.tsv", text))


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(["1", "0", "1"]),
        pd.Categorical([True, False, True]),
        np.array([True, False, True]),
        np.array([1, 0, 1], np.int8),
        np.array([1.0, 0.0, 1.0]),
    ],
)
def test_flags_of_an_h5ad_of_any_type(column: object, tmp_path: Path) -> None:
    path = h5ad(tmp_path / "s.h5ad", in_tissue=column, array_row=[0] * 3, array_col=[0, 1, 2])
    assert read_spots(path).barcodes == ("cell0", "cell2")


@pytest.mark.parametrize("column", [[1.0, np.nan, 1.0], pd.Categorical(["1", None, "1"])])
def test_missing_flags_of_an_h5ad_are_refused(column: object, tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match="in_tissue of spot 2 is nan, neither 0 nor 1"):
        read_spots(h5ad(tmp_path / "s.h5ad", in_tissue=column))


def test_places_as_categories_are_numbers(tmp_path: Path) -> None:
    places = pd.Categorical(["0", "10", "2"])
    path = h5ad(tmp_path / "s.h5ad", array_row=[0] * 3, array_col=places)
    assert read_spots(path).grid_rc.tolist() == [[0, 0], [0, 10], [0, 2]]


@pytest.mark.parametrize("names", ["array_row,array_col", "y,x"])
@pytest.mark.parametrize("place", [2**31, 5 * 10**9, 2**40])
def test_places_beyond_32_bits_are_refused(names: str, place: int, tmp_path: Path) -> None:
    text = f"pixel_x,pixel_y,{names}\n1,1,0,0\n5,1,0,{place}\n"
    with pytest.raises(SpotsError, match=r"of spot 2 is .*beyond any array of spots"):
        read_spots(write(tmp_path / "s.csv", text))


def test_places_beyond_32_bits_of_a_caller_are_refused() -> None:
    spots = Spots(np.array([[1.0, 1.0]]), np.array([[0, 5 * 10**9]]), "file", 1.0)
    with pytest.raises(SpotsError, match=r"spot 1 \(5000000000x0\).*beyond any array"):
        check_spots(spots, (10, 10))


def test_repeated_barcodes_are_refused(tmp_path: Path) -> None:
    text = "barcode,pixel_x,pixel_y\nA,1,1\nB,5,1\nA,9,1\n"
    with pytest.raises(SpotsError, match="1 repeat the barcode of another, such as 'A' in rows 1"):
        read_spots(write(tmp_path / "s.csv", text))


def test_a_missing_barcode_is_refused_and_an_empty_column_ignored(tmp_path: Path) -> None:
    text = "barcode,pixel_x,pixel_y\nA,1,1\n,5,1\n"
    with pytest.raises(SpotsError, match="barcode of spot 2 is '', no name of a spot"):
        read_spots(write(tmp_path / "s.csv", text))
    empty = "barcode,pixel_x,pixel_y\n,1,1\n,5,1\n"
    assert read_spots(write(tmp_path / "s.csv", empty)).barcodes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_lists_without_a_header(encoding: str, ending: str, packed: bool, tmp_path: Path) -> None:
    content = LIST.replace("\n", ending).encode(encoding)
    path = tmp_path / ("list.csv.gz" if packed else "list.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    spots = read_spots(path)
    assert spots.level0_xy.tolist() == [[1.25, 2.5], [9.5, 2.5]]
    assert spots.barcodes == ("A-1", "C-1")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.csv.gz"])
def test_empty_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpotsError, match=r"empty|cannot be read"):
        read_spots(tmp_path / name)


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "\n  \npixel_x,pixel_y\n1,2\n")
    assert read_spots(path).level0_xy.tolist() == [[1.0, 2.0]]


def test_a_table_that_inflates_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_TEXT_ROWS", 1000)
    path = tmp_path / "s.csv.gz"
    path.write_bytes(gzip.compress(b"pixel_x,pixel_y\n" + b"1,1\n" * 5_000_000))
    with pytest.raises(SpotsError, match=r"more than 1,000 rows.* the spots of one slide"):
        read_spots(path)


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.h5ad", "pipe.parquet"])
def test_pipes_and_devices_are_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SpotsError, match="is a pipe; pass a file that is stored on a disk"):
        read_spots(tmp_path / name)
    with pytest.raises(SpotsError, match="is a device"):
        read_spots("/dev/zero")
    with pytest.raises(SpotsError, match="is a pipe"):
        read_mask(tmp_path / name, None)  # type: ignore[arg-type]


def test_names_that_no_file_can_have() -> None:
    for name in ("x" * 300, "x\0y"):
        with pytest.raises(SpotsError, match="check the path"):
            read_spots(name)


def test_an_h5ad_that_claims_too_many_spots_is_refused(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "s.h5ad")
    with h5py.File(path, "r+") as opened:
        del opened["obsm/spatial"]
        opened["obsm"].create_dataset("spatial", (10**9, 2), "f8", chunks=(1000, 2))
    with pytest.raises(SpotsError, match="obsm/spatial claims 1000000000 x 2 values"):
        read_spots(path)


def test_an_h5ad_of_more_rows_than_a_slide_has_spots_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MAX_SPOTS", 2)
    with pytest.raises(SpotsError, match="has 3 rows, more than a slide has spots"):
        read_spots(h5ad(tmp_path / "s.h5ad"))


def test_an_h5ad_that_points_into_another_file_is_refused(tmp_path: Path) -> None:
    path, other = h5ad(tmp_path / "s.h5ad"), h5ad(tmp_path / "other.h5ad")
    with h5py.File(path, "r+") as opened:
        del opened["obsm/spatial"]
        opened["obsm/spatial"] = h5py.ExternalLink(str(other), "obsm/spatial")
    with pytest.raises(SpotsError, match="obsm/spatial lies in another file"):
        read_spots(path)
