"""The same picture gives the same pixels, or the same refusal, in strips and in tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.slides.tiled_tiff import APERIO
from triplex_deploy.errors import SlideError
from triplex_deploy.slides import open_slide

MPP = 0.5
RESOLUTION: dict[str, Any] = {
    "resolution": (1e4 / MPP, 1e4 / MPP),
    "resolutionunit": "CENTIMETER",
}
LAYOUTS: dict[str, dict[str, Any]] = {"strips": {}, "tiles": {"tile": (64, 64)}}


def scan(height: int = 200, width: int = 260) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(5).integers(40, 230, (height // 10, width // 10, 3))
    return np.kron(coarse, np.ones((10, 10, 1))).astype(np.uint8)


def macro(height: int = 90, width: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), (180, 90, 150), np.uint8)


def ome_scale(mpp: float, **more: object) -> dict[str, Any]:
    unit = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    return {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, **unit, **more}


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, *slide.level_sizes[0])


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"photometric": "rgb", **LAYOUTS[request.param]}


def test_the_macro_before_the_scan_is_not_the_slide(layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "macro_first.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(macro(), metadata=ome_scale(20.0), **layout)
        writer.write(scan(), metadata=ome_scale(MPP), **layout)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP)
        assert np.array_equal(slide.read(0, 0, 0, 260, 200), scan())


@pytest.mark.parametrize("name", ["Macro image", "LABEL", "overview"])
def test_a_named_macro_is_not_the_slide_however_large(
    name: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "large_macro.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(scan(), metadata=ome_scale(MPP, Name="scan"), **layout)
        writer.write(macro(400, 500), metadata=ome_scale(MPP, Name=name), **layout)
    assert np.array_equal(pixels_of(path), scan())


def test_an_image_of_a_macroscopic_scale_is_not_the_slide(
    layout: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "unnamed_macro.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(macro(400, 500), metadata=ome_scale(20.0), **layout)
        writer.write(scan(), metadata=ome_scale(MPP), **layout)
    assert np.array_equal(pixels_of(path), scan())


def test_two_sections_in_one_file_are_refused(layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(scan(), metadata=ome_scale(MPP), **layout)
        writer.write(scan(200, 240), metadata=ome_scale(MPP), **layout)
    with pytest.raises(SlideError, match=r"holds 2 images that may be the slide.*260x200"):
        open_slide(path)


def test_scale_and_levels_of_ome_metadata(layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(scan(), metadata=ome_scale(MPP), subifds=1, **layout)
        writer.write(scan()[::2, ::2], subfiletype=1, **layout)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP)
        assert slide.level_sizes == ((260, 200), (130, 100))
        assert np.array_equal(slide.read(1, 0, 0, 130, 100), scan()[::2, ::2])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extratags": [(274, 3, 1, 3, True)]}, "orientation tag is 3"),
        ({"extratags": [(274, 3, 1, 5, True)]}, "orientation tag is 5"),
        ({"photometric": "miniswhite"}, "MINISWHITE"),
    ],
)
def test_turned_and_inverted_pictures_are_refused(
    options: dict[str, Any], reason: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    data = scan()[..., 0] if "photometric" in options else scan()
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, data, **{**layout, **options, **RESOLUTION})
    with pytest.raises(SlideError, match=reason):
        open_slide(path)


def test_sixteen_bits_are_refused(layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, scan().astype(np.uint16) * 257, **layout, **RESOLUTION)
    with pytest.raises(SlideError, match="uint16, not uint8"):
        open_slide(path)


@pytest.mark.parametrize("ome", [False, True])
def test_planes_are_refused(ome: bool, layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "stack.ome.tif"
    planes = np.stack([scan() // 2, scan()])
    metadata = {"axes": "ZYXS"} if ome else None
    tifffile.imwrite(path, planes, metadata=metadata, ome=ome, **layout)
    with pytest.raises(SlideError, match="stack of 2 images"):
        open_slide(path)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_shows_white(kind: str, layout: dict[str, Any], tmp_path: Path) -> None:
    rgba = np.full((64, 64, 4), 100, np.uint8)
    rgba[..., 3] = 102
    path = tmp_path / "alpha.tif"
    tifffile.imwrite(path, rgba, extrasamples=[kind], **layout)
    expected = {"unassalpha": 193, "assocalpha": 253}[kind]
    assert (pixels_of(path) == expected).all()


def test_gray_becomes_rgb(layout: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "gray.tif"
    tifffile.imwrite(path, scan()[..., 0], **{**layout, "photometric": "minisblack"})
    assert np.array_equal(pixels_of(path), np.repeat(scan()[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [(274, 3, "orientation tag is 3"), (258, 16, "samples have 16 bits")],
)
def test_the_same_checks_hold_for_slides_of_a_vendor(
    tag: int, value: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "aperio.svs"
    data = scan().astype(np.uint16) if tag == 258 else scan()
    extra: dict[str, Any] = {} if tag == 258 else {"extratags": [(tag, 3, 1, value, True)]}
    tifffile.imwrite(
        path,
        data,
        tile=(64, 64),
        photometric="rgb",
        description=APERIO.format(w=260, h=200),
        metadata=None,
        **extra,
    )
    with pytest.raises(SlideError, match=reason):
        open_slide(path)
