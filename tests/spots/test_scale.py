"""The distance of spots on a known array is compared with the slide's scale."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import check_array_scale, known_array, read_spots
from triplex_deploy.spots.scale import square, visium

MPP = 0.5
HEADERS = {
    "visium": "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres",
    "st": "x,y,new_x,new_y,pixel_x,pixel_y,selected",
}


def places(kind: str) -> NDArray[np.int64]:
    row, column = (axis.ravel() for axis in np.mgrid[:6, :8])
    kept = (row + column) % 2 == 0 if kind == "visium" else row >= 0
    return np.stack([row, column], axis=1)[kept].astype(np.int64)


def centers(kind: str, mpp: float) -> NDArray[np.float64]:
    step_um = (100 * 3**0.5 / 2, 50.0) if kind == "visium" else (200.0, 200.0)
    return np.asarray((places(kind) * step_um)[:, ::-1] / mpp + 100, np.float64)


def write(path: Path, kind: str, xy: NDArray[np.float64]) -> Path:
    rows = [
        f"s{i},1,{r},{c},{y},{x}" if kind == "visium" else f"{c},{r},{c},{r},{x},{y},1"
        for i, ((r, c), (x, y)) in enumerate(zip(places(kind), xy, strict=True))
    ]
    path.write_text("\n".join([HEADERS[kind], *rows]) + "\n")
    return path


def verdict(path: Path, mpp: float) -> str:
    spots = read_spots(path)
    array = known_array(spots.grid_rc, spots.level0_xy, spots.array)
    assert array is not None
    return check_array_scale(spots.level0_xy, spots.grid_rc, mpp, array)


@pytest.mark.parametrize("kind", HEADERS)
def test_spots_that_fit_pass(kind: str, tmp_path: Path) -> None:
    assert verdict(write(tmp_path / "s.csv", kind, centers(kind, MPP)), MPP) == ""
    assert verdict(write(tmp_path / "s.csv", kind, centers(kind, MPP)), 1.03 * MPP) == ""


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_array_passes(kind: str, turns: int, tmp_path: Path) -> None:
    turn = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns)
    xy = centers(kind, MPP) @ turn + 5000
    assert verdict(write(tmp_path / "s.csv", kind, xy), MPP) == ""


@pytest.mark.parametrize(("kind", "pitch"), [("visium", 100), ("st", 200)])
@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0])
def test_positions_on_an_image_of_another_size_are_refused(
    kind: str, pitch: int, factor: float, tmp_path: Path
) -> None:
    path = write(tmp_path / "s.csv", kind, factor * centers(kind, MPP))
    reason = rf"{factor * pitch:g} um apart at the slide's 0\.5 um/px, and {pitch} um on a .*--mpp"
    with pytest.raises(SpotsError, match=reason):
        verdict(path, MPP)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_small_contradiction_is_a_warning(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", kind, centers(kind, MPP))
    assert "check --mpp" in verdict(path, 1.15 * MPP)


@pytest.mark.parametrize("kind", HEADERS)
def test_swapped_x_and_y_are_a_warning(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", kind, centers(kind, MPP)[:, ::-1])
    assert "mirrored on this image; check that x and y" in verdict(path, MPP)


def test_mixed_array_rows_and_columns_are_refused() -> None:
    swapped = places("visium")[:, ::-1]
    with pytest.raises(SpotsError, match="rows and columns in place"):
        check_array_scale(centers("visium", MPP), swapped, MPP, visium())


def test_a_hexagonal_array_of_an_unknown_maker_is_only_doubted() -> None:
    array = known_array(places("visium"), centers("visium", MPP), None)
    assert array is not None
    assert not array.is_certain
    warning = check_array_scale(2 * centers("visium", MPP), places("visium"), MPP, array)
    assert "200 um apart" in warning


def test_a_square_array_of_an_unknown_maker_has_no_known_distance() -> None:
    assert known_array(places("st"), centers("st", MPP), None) is None


def test_bins_of_visium_hd_are_known_by_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "square_008um" / "spatial"
    folder.mkdir(parents=True)
    rows = [f"b{n},1,0,{n},10,{10 + 16 * n}" for n in range(3)]
    rows += [f"c{n},1,1,{n},26,{10 + 16 * n}" for n in range(3)]
    path = folder / "tissue_positions.csv"
    path.write_text("\n".join([HEADERS["visium"], *rows]) + "\n")
    assert read_spots(path).array == square("Visium HD array of 8 um bins", 8.0)
    assert verdict(path, 0.5) == ""
    with pytest.raises(SpotsError, match="16 um apart at the slide's 1 um/px, and 8 um"):
        verdict(path, 1.0)


def test_spots_on_one_line_give_no_scale() -> None:
    line = np.stack([np.zeros(4, np.int64), np.arange(4)], axis=1)
    xy = np.stack([np.arange(4) * 10.0, np.full(4, 5.0)], axis=1)
    assert check_array_scale(xy, line, MPP, square("ST array", 200.0)) == ""
