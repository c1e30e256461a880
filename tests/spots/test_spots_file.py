"""Reading spots from files."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import read_spots

SQUARE = "pixel_x,pixel_y\n" + "\n".join(f"{100 * c},{100 * r}" for r in range(3) for c in range(3))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_csv_with_array_coordinates(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.csv", "pixel_x,pixel_y,array_row,array_col\n10.5,20,3,7\n40,60,4,9\n"
    )
    spots = read_spots(path)
    assert spots.level0_xy.tolist() == [[10.5, 20.0], [40.0, 60.0]]
    assert spots.grid_rc.tolist() == [[3, 7], [4, 9]]
    assert spots.grid_rc.dtype == np.int64
    assert spots.names == ("7x3", "9x4")
    assert spots.layout == "file"
    assert spots.note == ""
    assert spots.spot_diameter_px == pytest.approx(np.hypot(29.5, 40) / 5**0.5 / 2)


def test_her2st_columns_round_and_drop_unselected(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.tsv",
        "x\ty\tnew_x\tpixel_x\tpixel_y\tselected\n"
        "24.913\t13.042\t0\t6930.58\t3510.24\t1\n"
        "1\t1\t0\t1\t1\t0\n"
        "24.032\t13.068\t0\t6674.96\t3517.82\t1\n",
    )
    spots = read_spots(path)
    assert spots.names == ("25x13", "24x13")
    assert spots.grid_rc.tolist() == [[13, 25], [13, 24]]
    assert spots.level0_xy.tolist() == [[6930.58, 3510.24], [6674.96, 3517.82]]


def test_space_ranger_columns_are_not_swapped(tmp_path: Path) -> None:
    header = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
    rows = "AAA-1,1,0,2,2546,2917\nCCC-1,0,1,1,1,1\nGGG-1,1,1,3,2665,2986\n"
    for name, text in (("tissue_positions.csv", header + rows), ("list.csv", rows)):
        spots = read_spots(write(tmp_path / name, text))
        assert spots.level0_xy.tolist() == [[2917.0, 2546.0], [2986.0, 2665.0]]  # x from the column
        assert spots.grid_rc.tolist() == [[0, 2], [1, 3]]
        assert spots.barcodes == ("AAA-1", "GGG-1")


def test_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame({"pxl_row_in_fullres": [5, 9], "pxl_col_in_fullres": [1, 2]})
    table["array_row"], table["array_col"], table["in_tissue"] = [0, 1], [0, 1], [1, 1]
    path = tmp_path / "tissue_positions.parquet"
    table.to_parquet(path)
    assert read_spots(path).level0_xy.tolist() == [[1.0, 5.0], [2.0, 9.0]]


def test_h5ad(tmp_path: Path) -> None:
    import anndata

    obs = pd.DataFrame(
        {"array_row": [0, 1, 1], "array_col": [0, 1, 3], "in_tissue": [1, 0, 1]},
        index=["a", "b", "c"],
    )
    spatial = np.array([[10, 20], [30, 40], [50, 60]])
    anndata.AnnData(np.zeros((3, 2)), obs=obs, obsm={"spatial": spatial}).write_h5ad(
        tmp_path / "s.h5ad"
    )
    spots = read_spots(tmp_path / "s.h5ad")
    assert spots.barcodes == ("a", "c")
    assert spots.level0_xy.tolist() == [[10.0, 20.0], [50.0, 60.0]]
    assert spots.grid_rc.tolist() == [[0, 0], [1, 3]]


def test_h5ad_without_positions(tmp_path: Path) -> None:
    import anndata

    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "s.h5ad")
    with pytest.raises(SpotsError, match=r'no \(x, y\) in obsm\["spatial"\]'):
        read_spots(tmp_path / "s.h5ad")


def test_missing_array_coordinates_are_inferred_and_noted(tmp_path: Path) -> None:
    spots = read_spots(write(tmp_path / "s.csv", SQUARE))
    assert spots.grid_rc.tolist() == [[r, c] for r in range(3) for c in range(3)]
    assert spots.note == "array coordinates were inferred from a square lattice of 9 spots"
    assert spots.spot_diameter_px == 50.0


def test_one_spot_is_enough(tmp_path: Path) -> None:
    spots = read_spots(write(tmp_path / "s.csv", "pixel_x,pixel_y\n10,20\n"))
    assert spots.grid_rc.tolist() == [[0, 0]]
    assert spots.note == ""


def test_positions_are_checked_before_the_lattice(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", SQUARE + "\n100,0\n")
    with pytest.raises(SpotsError, match=r"s\.csv: 1 repeat the pixel .* row 2 and row 10; remove"):
        read_spots(path)
    path = write(tmp_path / "s.csv", SQUARE + "\n7000,5\n")
    with pytest.raises(SpotsError, match=r"1 of 10 lie outside the slide of 900x800 .* row 10 at"):
        read_spots(path, (900, 800))
    path = write(tmp_path / "s.csv", SQUARE + "\n-100,5\n")
    with pytest.raises(SpotsError, match=r"1 of 10 lie outside the slide, such as row 10 at"):
        read_spots(path)


def test_rows_are_counted_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "pixel_x,pixel_y,selected\n1,1,0\n2,2,1\n2,2,1\n")
    with pytest.raises(SpotsError, match="row 2 and row 3"):
        read_spots(path)
    path = write(tmp_path / "s.csv", "pixel_x,pixel_y,x,y\n1,1,4,5\n2,2,4.2,5\n")
    with pytest.raises(SpotsError, match="repeat the array position of another, such as row 1 and"):
        read_spots(path)


@pytest.mark.parametrize("below", ["", "spatial", "outs/spatial"])
@pytest.mark.parametrize("name", ["tissue_positions.csv", "tissue_positions_list.csv"])
def test_a_space_ranger_folder_stands_for_its_positions(
    below: str, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / name, "AAA-1,1,0,2,2546,2917\nGGG-1,1,1,3,2665,2986\n")
    assert read_spots(tmp_path).barcodes == ("AAA-1", "GGG-1")
    write(folder / "scalefactors_json.json", '{"spot_diameter_fullres": 89.4}')
    assert read_spots(tmp_path).spot_diameter_px == 89.4
    assert read_spots(folder / name).spot_diameter_px == 89.4
    write(folder / "scalefactors_json.json", "{")
    with pytest.raises(SpotsError, match=r"scalefactors_json\.json: not readable as JSON"):
        read_spots(tmp_path)


def test_another_folder_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match=r"none of tissue_positions\.csv, .*_list\.csv, .*parquet"):
        read_spots(tmp_path)


def test_h5ad_names_the_spot_diameter_and_barcodes(tmp_path: Path) -> None:
    import anndata

    obs = pd.DataFrame({"barcode": ["AAA-1", "CCC-1"]}, index=["0x0", "1x0"])
    library = {"scalefactors": {"spot_diameter_fullres": 77.5}}
    table = anndata.AnnData(np.zeros((2, 1)), obs=obs, uns={"spatial": {"s": library}})
    table.obsm["spatial"] = np.array([[10, 20], [110, 20]])
    table.obs["array_row"], table.obs["array_col"] = [0, 0], [0, 1]
    table.write_h5ad(tmp_path / "s.h5ad")
    spots = read_spots(tmp_path / "s.h5ad")
    assert spots.spot_diameter_px == 77.5
    assert spots.barcodes == ("AAA-1", "CCC-1")


def test_compressed_and_semicolon_tables(tmp_path: Path) -> None:
    text = "Pixel_X;PIXEL_Y;Array_Row;array_col;Barcode\n1,5;2;0;0;A\n5;2;0;1;B\n"
    for name, content in (
        ("s.csv", text.encode()),
        ("s.csv.gz", gzip.compress(text.encode())),
        ("s.tsv.gz", gzip.compress(text.replace(";", "\t").replace(",", ".").encode())),
    ):
        (tmp_path / name).write_bytes(content)
        spots = read_spots(tmp_path / name)
        assert spots.level0_xy.tolist() == [[1.5, 2.0], [5.0, 2.0]]
        assert spots.grid_rc.tolist() == [[0, 0], [0, 1]]
        assert spots.barcodes == ("A", "B")


@pytest.mark.parametrize("content", ["pixel_x,größe\n".encode("latin-1"), b"\xff\xfep\0i"])
def test_other_encodings_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(SpotsError, match=r"s\.csv: not UTF-8 text; save it as UTF-8"):
        read_spots(tmp_path / "s.csv")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no gzip", id="other"),
        pytest.param(gzip.compress(b"pixel_x,pixel_y\n1,2\n")[:-9], id="cut"),
    ],
)
def test_damaged_gzip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.csv.gz").write_bytes(content)
    with pytest.raises(SpotsError, match=r"s\.csv\.gz: cannot be read"):
        read_spots(tmp_path / "s.csv.gz")


def test_byte_order_mark_and_spaces_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(b"\xef\xbb\xbfpixel_x, pixel_y, array_row, array_col\r\n1, 2, 3, 4\r\n")
    assert read_spots(path).grid_rc.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the spots file is empty"),
        ("pixel_x,pixel_y\n", "has no rows"),
        ("px,py\n1,2\n", "among its columns px, py; it needs pixel_x and pixel_y or pxl_col_in"),
        (
            "pixel_x,pixel_y,array_row,array_col\n1,abc,0,0\n",
            "pixel_y of spot 1 is 'abc', not a num",
        ),
        ("pixel_x,pixel_y,array_row,array_col\n1,1,0,0\nnan,2,0,1\n", "pixel_x of spot 2 is 'nan'"),
        ("pixel_x,pixel_y,array_row,array_col\n1,,0,0\n", "pixel_y of spot 1 is '', not a number"),
        ("pixel_x,pixel_y,array_row,array_col\n1,inf,0,0\n", "pixel_y of spot 1 is 'inf'"),
        (
            "pixel_x,pixel_y,array_row,array_col\n1,1,0.5,0\n",
            "array_row of spot 1 is '0.5', not an int",
        ),
        ("pixel_x,pixel_y,selected\n1,1,0\n", "selected is 0 for every spot"),
        ("pixel_x,pixel_y\n1,2,3,4\n", "not a table"),
        ("pixel_x,pixel_y,Pixel_X\n1,2,3\n", "more than one column pixel_x; keep one of each"),
        ("x,y\n1,2\n", "columns x, y; x and y are places on the array; it needs pixel_x and"),
    ],
)
def test_bad_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match=rf"s\.csv: .*{reason}"):
        read_spots(write(tmp_path / "s.csv", text))


def test_absent_and_binary_files_are_refused(tmp_path: Path) -> None:
    for name in ("absent.csv", "absent.h5ad", "absent.parquet"):
        with pytest.raises(SpotsError, match="no such spots file"):
            read_spots(tmp_path / name)
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    (tmp_path / "binary.h5ad").write_bytes(bytes(range(128, 256)))
    for name in ("binary.csv", "binary.h5ad"):
        with pytest.raises(SpotsError, match=name):
            read_spots(tmp_path / name)


@pytest.mark.parametrize(
    ("section", "count", "first"),
    [("C2", 187, "25x13"), ("C3", 182, "22x5"), ("C4", 187, "21x8"), ("C5", 183, "19x6")],
)
def test_her2st_files(section: str, count: int, first: str, shared_data: Path) -> None:
    spots = read_spots(shared_data / f"her2st/ST-spotfiles/{section}_selection.tsv")
    assert len(spots.names) == len(set(spots.names)) == count
    assert spots.names[0] == first
    assert spots.spot_diameter_px == pytest.approx(145.5, abs=1)
    assert spots.barcodes == ()


def test_squidpy_h5ad(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    spots = read_spots(shared_data / "visium/squidpy_test/test_data.h5ad")
    assert len(spots.names) == len(spots.barcodes) == 49
    assert spots.level0_xy[0].tolist() == [337.0, 439.0]
    assert spots.note == "array coordinates were inferred from a hexagonal lattice of 49 spots"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_scanpy_positions_list(shared_data: Path) -> None:
    path = shared_data / "visium/scanpy_visium_1.0.0/spatial/tissue_positions_list.csv"
    spots = read_spots(path)
    kept = [line.split(",") for line in path.read_text().splitlines() if line.split(",")[1] == "1"]
    assert len(spots.names) == len(kept)
    assert spots.level0_xy[0].tolist() == [float(kept[0][5]), float(kept[0][4])]
    assert spots.grid_rc[0].tolist() == [int(kept[0][2]), int(kept[0][3])]
