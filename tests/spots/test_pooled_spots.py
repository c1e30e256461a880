"""Spots to predict from the folders of vendors."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.vendor_outputs import ALIGNMENT, PIXEL_UM, write_visium_hd, write_xenium
from triplex_deploy.errors import SpotsError
from triplex_deploy.spots import Pooling, pooled_files, read_pooled_spots, read_spots
from triplex_deploy.spots.xenium import read_alignment


@pytest.fixture
def hd(tmp_path: Path) -> Path:
    write_visium_hd(tmp_path / "hd")
    return tmp_path / "hd"


@pytest.fixture
def xenium(tmp_path: Path) -> Path:
    write_xenium(tmp_path / "xenium")
    return tmp_path / "xenium"


@pytest.mark.parametrize("bin_um", [8, 16])
@pytest.mark.parametrize("below", ["", "outs", "outs/binned_outputs"])
def test_bins_of_visium_hd_become_spots(hd: Path, below: str, bin_um: int) -> None:
    spots = read_pooled_spots(hd / below, Pooling(100, bin_um=bin_um), (900, 900))
    # The bins reach from (16, 32) to (416, 432) um, and spots start at multiples of 100 um.
    assert spots.grid_rc.tolist() == [[row, col] for row in range(4) for col in range(4)]
    assert spots.level0_xy[1].tolist() == [300, 100]
    assert spots.spot_diameter_px == 200
    assert spots.array is not None
    assert spots.array.pitch_um == 100


def test_only_bins_in_tissue_make_spots(tmp_path: Path) -> None:
    write_visium_hd(tmp_path / "hd", in_tissue=np.arange(2500) < 50 * 21)  # down to 200 um
    spots = read_pooled_spots(tmp_path / "hd", Pooling(100))
    assert spots.grid_rc[:, 0].tolist() == [0] * 4 + [1] * 4


def test_cells_of_xenium_become_spots_on_the_image_of_the_alignment(xenium: Path) -> None:
    spots = read_pooled_spots(xenium, Pooling(50, "hexagonal"), (900, 800))
    # The region is (100, 200) to (700, 600) in pixels of 0.5 um.
    assert spots.level0_xy.min(axis=0) == pytest.approx((100, 200), abs=51)
    assert spots.level0_xy.max(axis=0) == pytest.approx((700, 600), abs=51)
    # Spots at the edge count if half of them is inside.
    assert 28 < len(spots.level0_xy) < (300 + 50) * (200 + 50) / (50**2 * 0.866)


def test_the_alignment_leads_from_the_image_to_micrometers(xenium: Path) -> None:
    alignment = read_alignment(xenium, xenium / "he_imagealignment.csv")
    assert alignment.mpp == pytest.approx(0.5)
    he_px = np.array([[10.0, 20.0], [300.0, 50.0]])
    xy_um = (he_px @ ALIGNMENT[:2, :2].T + ALIGNMENT[:2, 2]) * PIXEL_UM
    np.testing.assert_allclose(alignment.level0(xy_um), he_px)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1,0,0\n0,1,0", "3 x 3"),
        ("1,0,0\n0,1,0\n0,0,2", "3 x 3"),
        ("1,0,0\n0,nan,0\n0,0,1", "3 x 3"),
        ("1,0,0\n0,1\n0,0,1", "not a matrix"),
        ("a,0,0\n0,1,0\n0,0,1", "not a matrix"),
        ("1,0,0\n0,3,0\n0,0,1", "stretches"),
        ("1,1,0\n1,1,0\n0,0,1", "stretches"),
    ],
)
def test_what_is_no_alignment_is_refused(xenium: Path, text: str, why: str) -> None:
    (xenium / "he_imagealignment.csv").write_text(text)
    with pytest.raises(SpotsError, match=why):
        read_pooled_spots(xenium, Pooling(100))


def test_the_alignment_must_be_the_only_one_or_given(xenium: Path) -> None:
    found = xenium / "he_imagealignment.csv"
    found.rename(xenium.parent / "mine.csv")
    with pytest.raises(SpotsError, match=r"found none.*--alignment"):
        read_pooled_spots(xenium, Pooling(100))
    pooling = Pooling(100, alignment=xenium.parent / "mine.csv")
    assert len(read_pooled_spots(xenium, pooling).grid_rc)
    assert pooled_files(xenium, pooling)[-1] == xenium.parent / "mine.csv"


@pytest.mark.parametrize("size", [None, "0.25", -1, float("inf")])
def test_an_experiment_without_a_pixel_size_is_refused(xenium: Path, size: object) -> None:
    (xenium / "experiment.xenium").write_text(json.dumps({"pixel_size": size}))
    with pytest.raises(SpotsError, match="pixel_size"):
        read_pooled_spots(xenium, Pooling(100))


def test_a_folder_of_another_kind_is_named(hd: Path, xenium: Path, tmp_path: Path) -> None:
    with pytest.raises(SpotsError, match="--format visium-hd"):
        read_pooled_spots(hd, Pooling(100, kind="xenium"))
    with pytest.raises(SpotsError, match="leave out --pool-um"):
        read_pooled_spots(tmp_path, Pooling(100))
    for folder in (hd, xenium):
        with pytest.raises(SpotsError, match="such as --pool-um 100"):
            read_spots(folder)


def test_bins_that_are_not_pooled_are_told(hd: Path) -> None:
    spots = read_spots(hd / "outs/binned_outputs/square_016um")
    assert len(spots.grid_rc) == 625
    assert "bins of 16 um" in spots.note
    assert "--pool-um" in spots.note


def test_another_size_of_bins_is_named(hd: Path) -> None:
    with pytest.raises(SpotsError, match="bins here: 8 um"):
        read_pooled_spots(hd / "outs/binned_outputs/square_008um", Pooling(100, bin_um=16))


def test_positions_that_contradict_the_scale_are_refused(hd: Path) -> None:
    scale = hd / "outs/binned_outputs/square_008um/spatial/scalefactors_json.json"
    scale.write_text(json.dumps({"microns_per_pixel": 2.0}))
    with pytest.raises(SpotsError, match="32 um apart"):
        read_pooled_spots(hd, Pooling(100))


def test_spots_beyond_the_slide_are_left_out(hd: Path) -> None:
    spots = read_pooled_spots(hd, Pooling(100), (500, 900))
    assert spots.grid_rc[:, 1].max() == 1  # centers at 100, 300, 500 and 700 pixels
    with pytest.raises(SpotsError, match="belong together"):
        read_pooled_spots(hd, Pooling(100), (90, 90))
