"""Where microns per pixel come from, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import open_slide, resolve_mpp

GRAY = np.zeros((32, 48, 3), np.uint8)


def mpp_of(path: Path, override: float | None = None) -> float:
    with open_slide(path) as slide:
        return resolve_mpp(slide, override)


def tiff(path: Path, **options: Any) -> Path:
    tifffile.imwrite(path, GRAY, photometric="rgb", **options)
    return path


@pytest.mark.parametrize("dpi", [1, 72, 96, 300, 600, 1200])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_printing_resolution_is_no_scale(dpi: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(GRAY).save(path, dpi=(dpi, dpi))
    with open_slide(path) as slide:
        assert slide.mpp is None
        with pytest.raises(SlideError, match=r"no plausible microns per pixel; look .* --mpp 0.25"):
            resolve_mpp(slide, None)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_plausible_resolution_counts(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"slide.{suffix}"
    Image.fromarray(GRAY).save(path, dpi=(50800, 50800))  # 25400 / 50800 um
    assert mpp_of(path) == pytest.approx(0.5, rel=1e-4)


def test_tiff_centimetres(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(40000, 40000), resolutionunit="CENTIMETER")
    assert mpp_of(path) == pytest.approx(0.25)


def test_tiff_without_unit_has_no_scale(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(40000, 40000), resolutionunit="NONE")
    with pytest.raises(SlideError, match="--mpp"):
        mpp_of(path)


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(0.25, "µm", 0.25), (250, "nm", 0.25), (0.00025, "mm", 0.25), (2500, "Å", 0.25)],
)
def test_ome_physical_size(size: float, unit: str, expected: float, tmp_path: Path) -> None:
    metadata = {
        "axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": size, "PhysicalSizeYUnit": unit,
    }  # fmt: skip
    assert mpp_of(tiff(tmp_path / "a.ome.tif", metadata=metadata)) == pytest.approx(expected)


def test_anisotropic_pixels_are_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(20000, 25000), resolutionunit="CENTIMETER")
    with pytest.raises(SlideError, match=r"not square, 0\.5 by 0\.4 um"):
        mpp_of(path)
    assert mpp_of(path, 0.45) == 0.45


def test_slightly_anisotropic_pixels_are_averaged(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(20000, 20202), resolutionunit="CENTIMETER")
    assert mpp_of(path) == pytest.approx(0.4975, abs=1e-4)


def test_override_wins_and_a_difference_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    assert mpp_of(path, 0.504) == 0.504
    assert not caplog.records
    assert mpp_of(path, 0.25) == 0.25
    assert "using 0.25 um/px as given, the metadata say 0.5" in caplog.text


@pytest.mark.parametrize("override", [0.0, -1.0, 0.04, 5.1, float("nan"), float("inf")])
def test_impossible_override_is_refused(override: float, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=f"--mpp {override:g} um/px"):
        mpp_of(tiff(tmp_path / "a.tif"), override)


def test_implausible_metadata_are_named(shared_data: Path) -> None:
    path = shared_data / "slides/openslide_boxes.tiff"
    with pytest.raises(SlideError, match=r"openslide_boxes\.tiff: .* 352\.778 um/px"):
        mpp_of(path)
    assert mpp_of(path, 0.5) == 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CMU-1-Small-Region.svs", 0.499),
        ("dicom_cmu1_small/level-0-frames-0-30.dcm", 0.499),
        ("test3-DAPI-2-387.ndpi", 0.22818),
    ],
)
def test_real_slides(name: str, expected: float, shared_data: Path) -> None:
    assert mpp_of(shared_data / "slides" / name) == pytest.approx(expected, abs=1e-5)
