from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.demo.growth import grow_section
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import ConfigError

pytestmark = pytest.mark.lengthy

SIZE = (1300, 900)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    synthesize_slide(path, *SIZE, mpp=0.5, seed=7)
    return path


def test_openslide_reads_a_pyramid_with_its_scale(slide_path: Path) -> None:
    import openslide

    with openslide.OpenSlide(slide_path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1300, 900), (325, 225))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-3)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-3)
        assert slide.properties["openslide.level[0].tile-width"] == "256"


def test_levels_show_the_same_tissue(slide_path: Path) -> None:
    import openslide

    with openslide.OpenSlide(slide_path) as slide:
        fine = np.asarray(slide.read_region((0, 0), 0, SIZE).convert("RGB"), float)
        coarse = np.asarray(slide.read_region((0, 0), 1, (325, 225)).convert("RGB"), float)
    averaged = fine.reshape(225, 4, 325, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - coarse).mean() < 3


def test_pixels_look_like_stained_tissue_on_white(slide_path: Path) -> None:
    import openslide

    with openslide.OpenSlide(slide_path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, SIZE).convert("RGB"), int)
    corner, inside = pixels[:40, :40], pixels[200:700, 400:900].reshape(-1, 3)
    assert corner.mean() > 235
    red, green, blue = inside.mean(axis=0)
    assert red > green + 30  # pink, and
    assert blue > green + 20  # purple, never green
    dark = (inside.sum(axis=1) < 390).mean()
    assert 0.01 < dark < 0.4  # nuclei


def test_equal_seeds_give_equal_files(slide_path: Path, tmp_path: Path) -> None:
    synthesize_slide(tmp_path / "again.tif", *SIZE, mpp=0.5, seed=7)
    assert (tmp_path / "again.tif").read_bytes() == slide_path.read_bytes()
    synthesize_slide(tmp_path / "other.tif", *SIZE, mpp=0.5, seed=8)
    assert (tmp_path / "other.tif").read_bytes() != slide_path.read_bytes()


def test_rows_do_not_depend_on_the_band_they_are_drawn_in() -> None:
    section = grow_section((700, 600), mpp=0.5, seed=1)
    whole = section.rows(0, 600)
    np.testing.assert_array_equal(section.rows(250, 331), whole[250:331])


def test_sizes_that_make_no_slide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too small; use at least 256 px"):
        synthesize_slide(tmp_path / "a.tif", 100, 900, 0.5, 0)
    with pytest.raises(ConfigError, match=r"use 0\.1 to 2 um/px"):
        synthesize_slide(tmp_path / "a.tif", 900, 900, 10, 0)
    assert list(tmp_path.iterdir()) == []
