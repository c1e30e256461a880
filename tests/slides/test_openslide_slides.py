"""Test what the OpenSlide reader adds to OpenSlide."""

from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.slides import open_slide
from triplex_deploy.slides.dicom_color import holds_mislabeled_ycbcr
from triplex_deploy.slides.openslide_reader import _scanned_xy

DICOM = "slides/dicom_cmu1_small/level-0-frames-0-30.dcm"


def test_svs_pixels(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        assert slide.format == "aperio"
        assert slide.level_sizes == ((2220, 2967),)
        assert slide.background_rgb == (255, 255, 255)
        assert slide.read(0, 100, 100, 1, 1).min() > 235  # glass


def test_mislabeled_dicom_has_the_colors_of_its_source(
    shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        open_slide(shared_data / DICOM) as dicom,
        open_slide(shared_data / "slides/CMU-1-Small-Region.svs") as svs,
    ):
        assert "the header says RGB, its JPEG frames are YCbCr" in caplog.text
        window = (0, 700, 900, 600, 600)
        converted, original = dicom.read(*window).astype(int), svs.read(*window).astype(int)
        assert np.abs(converted - original).mean() < 8  # compressed once more
        assert np.median(dicom.read(1, 100, 700, 200, 100)) > 235  # white glass, not salmon


def test_only_a_false_rgb_label_is_corrected(shared_data: Path) -> None:
    properties = {
        "dicom.PhotometricInterpretation": "RGB",
        "dicom.TransferSyntaxUID": "1.2.840.10008.1.2.4.50",
    }
    assert holds_mislabeled_ycbcr(shared_data / DICOM, properties)
    for name, value in (
        ("dicom.PhotometricInterpretation", "YBR_FULL_422"),
        ("dicom.TransferSyntaxUID", "1.2.840.10008.1.2.4.90"),
    ):
        assert not holds_mislabeled_ycbcr(shared_data / DICOM, {**properties, name: value})


def test_dicom_opens_by_any_of_its_files(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/dicom_cmu1_small/level-7-frames-0-1.dcm") as slide:
        assert slide.format == "dicom"
        assert slide.level_sizes[0] == (2220, 2967)
        assert len(slide.level_sizes) == 12


@pytest.mark.parametrize(
    ("properties", "corner"),
    [
        ({}, (0, 0)),
        ({"openslide.bounds-x": "1024", "openslide.bounds-y": "77"}, (1024, 77)),
        ({"openslide.bounds-x": "-271", "openslide.bounds-y": "86428"}, (-271, 86428)),
        ({"openslide.bounds-x": "left", "openslide.bounds-y": "0"}, (0, 0)),
    ],
)
def test_the_corner_of_the_scanned_part(
    properties: dict[str, str], corner: tuple[int, int]
) -> None:
    assert _scanned_xy(properties) == corner
