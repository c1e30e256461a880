"""The tissue mask, on made-up backgrounds and on real sections."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter1d

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide, open_slide, resolve_mpp
from triplex_deploy.spots import TissueMask, read_spots, tissue, tissue_mask
from triplex_deploy.spots.tissue import find_tissue

SIZE = 300
YY, XX = np.mgrid[:SIZE, :SIZE]
DISC = (YY - 150) ** 2 + (XX - 150) ** 2 < 70**2
UM = 8.0


def section(background: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """H&E-like texture inside the disc, absorbing on top of the given glass."""
    rng = np.random.default_rng(5)
    picture = np.broadcast_to(np.asarray(background, np.float64), (SIZE, SIZE, 3)).copy()
    picture += rng.normal(0, 1, picture.shape)
    eosin, nuclei = rng.uniform(0.2, 0.5, (SIZE, SIZE, 1)), rng.random((SIZE, SIZE, 1)) < 0.3
    density = eosin * [0.2, 1.0, 0.3] + nuclei * np.array([0.6, 0.7, 0.3])
    picture[DISC] *= np.exp(-density)[DISC]
    return np.clip(picture, 0, 255).astype(np.uint8)


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found & expected).sum() / (found | expected).sum())


@pytest.mark.parametrize(
    "glass", [(250, 250, 250), (238, 218, 232), (150, 155, 150), (225, 225, 245)]
)
def test_tinted_glass(glass: tuple[int, int, int]) -> None:
    assert agreement(find_tissue(section(glass), UM), DISC) > 0.9


def test_uneven_glass_with_a_pink_halo() -> None:
    halo = np.exp(-((XX - 230.0) ** 2 + (YY - 150.0) ** 2) / 40**2)
    shade = 1 - 0.25 * XX / SIZE
    glass = (
        np.array([240.0, 235.0, 240.0]) * shade[..., None] * (1 - halo[..., None] * [0, 0.18, 0.06])
    )
    found = find_tissue(section(glass), UM)
    assert agreement(found, DISC) > 0.85
    assert not found[:, 260:].any()


def test_printed_dots_and_shadow_are_left_out() -> None:
    picture = section((240, 225, 235))
    dots = (((XX % 25) - 12) ** 2 + ((YY % 25) - 12) ** 2 < 36) & ~DISC
    picture[dots] = (205, 205, 205)
    picture[(YY - 30) ** 2 + (XX - 40) ** 2 < 20**2] = (90, 90, 90)
    assert agreement(find_tissue(picture, UM), DISC) > 0.9


@pytest.mark.parametrize("ink", [(20, 110, 60), (30, 60, 170), (10, 10, 12)])
def test_pen_marks_are_left_out(ink: tuple[int, int, int]) -> None:
    picture = section((245, 245, 245))
    picture[10:30, 10:200] = ink
    found = find_tissue(picture, UM)
    assert not found[14:26, 20:190].any()
    assert agreement(found & (YY > 40), DISC) > 0.9


def test_debris_is_removed_and_small_holes_filled() -> None:
    picture = section((245, 245, 245))
    picture[20:30, 20:30] = (150, 70, 140)  # 6,400 um2
    picture[140:155, 140:155] = 245  # a gap of 14,400 um2
    found = find_tissue(picture, UM)
    assert not found[:60, :60].any()
    assert found[140:155, 140:155].all()


def test_picture_full_of_tissue() -> None:
    assert find_tissue(section((250, 250, 250))[110:190, 110:190], UM).mean() > 0.99


def test_blank_slide_has_no_tissue(array_slide: Callable[..., Slide]) -> None:
    for glass in (255, 0, 128):
        with pytest.raises(SpotsError, match=r"array\.tif: no tissue found; .*--mask.*--spots"):
            tissue_mask(array_slide(np.full((400, 600, 3), glass, np.uint8), 4.0), 4.0)


def test_tiny_slide_has_no_tissue_but_no_crash(array_slide: Callable[..., Slide]) -> None:
    with pytest.raises(SpotsError, match="no tissue"):
        tissue_mask(array_slide(np.full((3, 5, 3), 255, np.uint8), 0.5), 0.5)


def test_mask_covers_the_slide(array_slide: Callable[..., Slide]) -> None:
    pixels = np.kron(section((250, 250, 250)), np.ones((4, 4, 1), np.uint8))
    tissue = tissue_mask(array_slide(pixels, 2.0), 2.0)
    assert tissue.mask.shape == (SIZE, SIZE)
    assert tissue.level0_per_px == (4.0, 4.0)
    assert agreement(tissue.mask, DISC) > 0.9


def test_fraction_counts_parts_of_pixels() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[1, 1] = True
    tissue = TissueMask(mask, (10.0, 20.0))  # the pixel covers x 10..20, y 20..40
    boxes = [
        [10, 20, 20, 40],
        [10, 20, 20, 60],
        [15, 20, 25, 40],
        [0, 0, 40, 80],
        [-10, 30, 20, 40],
    ]
    assert tissue.fraction(np.array(boxes)).tolist() == pytest.approx([1, 0.5, 0.5, 0.0625, 1 / 3])
    everywhere = TissueMask(np.ones((4, 4), np.bool_), (10.0, 20.0))
    assert everywhere.fraction(np.array([[-10, 0, 10, 80], [50, 0, 60, 10]])).tolist() == [0.5, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section_name", "image"),
    [
        ("C2", "5714_HE_BT_C2"),
        ("C3", "5714_HE_BT_D1"),
        ("C4", "5714_HE_BT_D2"),
        ("C5", "5714_HE_BT_E1"),
    ],
)
def test_her2st_spots_lie_on_tissue(section_name: str, image: str, shared_data: Path) -> None:
    folder = shared_data / "her2st"
    with open_slide(folder / f"ST-imgs/C/{section_name}/{image}.jpg") as slide:
        tissue = tissue_mask(slide, 0.688)
    xy = read_spots(folder / f"ST-spotfiles/{section_name}_selection.tsv").level0_xy
    columns, rows = (xy / tissue.level0_per_px).astype(int).T
    assert tissue.mask[rows, columns].mean() >= 0.97
    away = np.ones(tissue.mask.shape, np.bool_)
    away[rows, columns] = False
    far = distance_transform_edt(away) * 8 > 500  # microns
    assert far.mean() > 0.5
    assert not tissue.mask[far].any()


def test_svs_region_with_a_lot_of_tissue(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        tissue = tissue_mask(slide, resolve_mpp(slide, None))
        assert tissue.mask.mean() == pytest.approx(0.41, abs=0.04)
        assert tissue.fraction(np.array([[700, 2700, 1300, 2900]])) > 0.95  # dermis
        assert tissue.fraction(np.array([[100, 1300, 400, 2900]])) == 0  # glass


def test_visium_crop_on_gray_glass(shared_data: Path) -> None:
    with open_slide(shared_data / "visium/squidpy_test/test_img.jpg") as slide:
        tissue = tissue_mask(slide, 0.615)
    assert tissue.fraction(np.array([[250, 500, 950, 1700]])) > 0.99
    assert tissue.fraction(np.array([[0, 300, 80, 1700]])) == 0


def test_crop_of_nothing_but_tissue(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/OS-1-detail.ome.tif") as slide:
        assert tissue_mask(slide, 0.2271).mask.mean() > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_that_of_scikit_image(seed: int) -> None:
    filters = pytest.importorskip("skimage.filters")
    rng = np.random.default_rng(seed)
    parts = (rng.normal(0.02, 0.01, 5000), rng.normal(0.2, 0.05, 400 * seed + 1))
    values = np.concatenate(parts).astype(np.float32)
    assert tissue._otsu(values) == pytest.approx(filters.threshold_otsu(values), rel=1e-6)


def test_glass_between_blocks_is_that_of_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    values = np.random.default_rng(0).random((83, 130, 4), np.float32)
    found = tissue._around(values)
    padded = np.pad(values, [(0, 5), (0, 6), (0, 0)], mode="edge")
    coarse = padded.reshape(11, 8, 17, 8, 4).mean(axis=(1, 3))
    for axis in (0, 1):
        coarse = gaussian_filter1d(coarse, tissue.GLASS_REACH_PX / tissue.GLASS_STEP_PX, axis)
    wanted = transform.resize(coarse, padded.shape, order=1, mode="edge")
    np.testing.assert_allclose(found, wanted[:83, :130], atol=1e-6)
