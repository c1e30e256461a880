"""Masks from QuPath's regions and from pictures of classes."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triplex_deploy.errors import SpotsError
from triplex_deploy.slides import Slide
from triplex_deploy.spots import grid_spots, read_mask, whole_slide_mask
from triplex_deploy.spots.geojson_mask import draw_geojson

SIZE = (4000, 2000)


class BlankSlide(Slide):
    def __init__(self, scanned_xy: tuple[int, int] = (0, 0)) -> None:
        self.path = Path("blank.tif")
        self.level_sizes = (SIZE,)
        self.scanned_xy = scanned_xy

    def _read_inside(self, level, x, y, width, height):
        return np.full((height, width, 3), 255, np.uint8)

    def _release(self) -> None:
        pass


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(geometry: Any, name: str | None = None, **classification: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    if classification:
        properties["classification"] = classification
    return {"type": "Feature", "id": "0", "geometry": geometry, "properties": properties}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def drawn(folder: Path, content: Any, chosen: str | None = None) -> np.ndarray:
    path = folder / "roi.geojson"
    path.write_text(json.dumps(content))
    return draw_geojson(path, SIZE, (0, 0), chosen)


WITH_HOLE = polygon(square(1000, 500, 1000), square(1250, 750, 500))


def test_a_polygon_is_drawn_without_its_hole(tmp_path: Path) -> None:
    mask = drawn(tmp_path, collection(feature(WITH_HOLE)))
    assert mask.shape == (2000, 4000)
    expected = np.zeros_like(mask)
    expected[500:1500, 1000:2000] = True
    expected[750:1250, 1250:1750] = False
    assert (mask != expected).sum() < 8 * 1000  # a pixel along the lines


@pytest.mark.parametrize(
    "wrapped",
    [
        WITH_HOLE,
        feature(WITH_HOLE),
        [feature(WITH_HOLE)],
        {"type": "MultiPolygon", "coordinates": [WITH_HOLE["coordinates"]]},
        {"type": "GeometryCollection", "geometries": [WITH_HOLE]},
        collection(feature(WITH_HOLE), feature(None)),
    ],
)
def test_every_wrapping_of_a_polygon_is_the_same(tmp_path: Path, wrapped: Any) -> None:
    expected = drawn(tmp_path, collection(feature(WITH_HOLE)))
    assert np.array_equal(drawn(tmp_path, wrapped), expected)


def test_the_parts_of_a_multipolygon_do_not_cut_each_other(tmp_path: Path) -> None:
    inner = [square(1300, 800, 300)]
    parts = {"type": "MultiPolygon", "coordinates": [WITH_HOLE["coordinates"], inner]}
    for order in (1, -1):
        parts["coordinates"] = parts["coordinates"][::order]
        mask = drawn(tmp_path, parts)
        assert mask[950, 1450]
        assert not mask[1200, 1700]


def test_the_chosen_class_is_drawn(tmp_path: Path) -> None:
    content = collection(
        feature(polygon(square(0, 0, 900)), "Tumor"),
        feature(polygon(square(2000, 0, 900)), "Stroma"),
        feature(polygon(square(0, 1000, 900)), names=["Tumor", "Positive"]),
    )
    tumor = drawn(tmp_path, content, "Tumor")
    assert tumor[400, 400]
    assert not tumor[400, 2400]
    assert not tumor[1400, 400]
    assert drawn(tmp_path, content, "Tumor: Positive")[1400, 400]
    assert drawn(tmp_path, content)[400, 2400]
    with pytest.raises(SpotsError, match=r"no region of class 'tumour' .*'Stroma', 'Tumor'"):
        drawn(tmp_path, content, "tumour")


def test_ignored_classes_are_left_out_and_points_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = collection(
        feature(polygon(square(0, 0, 900)), "Tumor"),
        feature(polygon(square(2000, 0, 900)), "Ignore*"),
        feature({"type": "Point", "coordinates": [5, 5]}),
        feature({"type": "LineString", "coordinates": [[5, 5], [7, 7]]}),
    )
    assert not drawn(tmp_path, content)[400, 2400]
    assert "2 points and lines have no area" in caplog.text


def test_coordinates_begin_at_the_scanned_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "roi.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(polygon(square(0, 0, 500))).encode()))
    slide = BlankSlide((1000, 600))
    inside = np.array([[1100.0, 700.0]])
    assert read_mask(path, slide).holds(inside).all()
    assert "(1000, 600)" in caplog.text
    assert not read_mask(path, slide, None, "slide").holds(inside).any()


def test_a_region_that_reaches_beyond_the_slide_is_cut(tmp_path: Path) -> None:
    mask = drawn(tmp_path, polygon(square(3500, -9000, 10000)))
    assert mask[:990, 3501:].all()
    assert not mask[:, :3499].any()
    with pytest.raises(SpotsError, match="outside the slide of 4000x2000"):
        drawn(tmp_path, polygon(square(9000, 0, 500)))


def test_a_line_that_crosses_itself_is_drawn(tmp_path: Path) -> None:
    bow = [[0, 0], [1000, 1000], [1000, 0], [0, 1000], [0, 0]]
    mask = drawn(tmp_path, polygon(bow))
    assert mask[500, 900]
    assert not mask[100, 500]


def _nested(depth: int) -> str:
    return '{"type":"GeometryCollection","geometries":[' * depth + "]}" * depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not readable"),
        ("[1, 2]", "no kind"),
        ("null", "no kind"),
        ('"Polygon"', "no kind"),
        ('{"type":"Polygon"}', "without coordinates"),
        ('{"type":"Polygon","coordinates":[]}', "without coordinates"),
        ('{"type":"MultiPolygon","coordinates":7}', "without coordinates"),
        ('{"type":"MultiPolygon","coordinates":[[]]}', "without coordinates"),
        ('{"type":"FeatureCollection"}', "without features"),
        ('{"type":"FeatureCollection","features":[]}', "no region"),
        ('{"type":"Feature","geometry":{"type":"Circle"}}', "no kind"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0]]]}', "fewer than 3"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0],[1]]]}', "pairs of numbers"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0],["1","2"]]]}', "pairs of numbers"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0],[true,null]]]}', "pairs of numbers"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,[2]]]]}', "pairs of numbers"),
        ('{"type":"Polygon","coordinates":[[[0,0],[NaN,0],[1,2]]]}', "NaN"),
        ('{"type":"Polygon","coordinates":[[[0,0],[-Infinity,0],[1,2]]]}', "Infinity"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1e400,0],[1,2]]]}', "no slide has"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1e30,0],[1,2]]]}', "no slide has"),
        (f'{{"type":"Polygon","coordinates":[[[0,0],[{10**40},0],[1,2]]]}}', "pairs of numbers"),
        ("[" * 100_000 + "]" * 100_000, "not readable"),
        (_nested(300), "no region"),
        (_nested(100_000), "not readable"),
    ],
)
def test_hostile_files_are_one_error(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text(text)
    with pytest.raises(SpotsError, match=why) as caught:
        draw_geojson(path, SIZE)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_regions_that_would_take_hours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triplex_deploy.spots.geojson_mask.MAX_OVERDRAW", 3)
    whole = feature(polygon(square(0, 0, 4000)))
    assert drawn(tmp_path, collection(*[whole] * 3)).all()
    with pytest.raises(SpotsError, match="too often"):
        drawn(tmp_path, collection(*[whole] * 4))


def picture(path: Path, *values: int) -> Path:
    """Save upright stripes of these values."""
    stripes = np.repeat(np.array([values], np.uint8), 100, axis=0)
    Image.fromarray(stripes.repeat(200 // len(values), axis=1)).save(path)
    return path


def test_a_class_of_a_gray_picture_is_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slide = BlankSlide()
    path = picture(tmp_path / "mask.png", 1, 7, 2, 7)
    left, right = np.array([[500.0, 500.0]]), np.array([[1500.0, 500.0]])
    tissue = read_mask(path, slide, "1")
    assert tissue.holds(left).all()
    assert not tissue.holds(right).any()
    with pytest.raises(SpotsError, match=r"classes 1, 2, 7, not black and white.*--mask-class"):
        read_mask(path, slide)
    with pytest.raises(SpotsError, match="it has 1, 2, 7"):
        read_mask(path, slide, "3")
    with pytest.raises(SpotsError, match="give the number of a class"):
        read_mask(path, slide, "Tumor")
    binary = picture(tmp_path / "tissue.png", 0, 1)
    assert read_mask(binary, slide, "0").holds(left).all()
    assert not read_mask(binary, slide).holds(left).any()
    assert "tis_det_mask" in caplog.text


def test_the_least_share_of_tissue_and_tiles_at_the_edge() -> None:
    slide = BlankSlide()
    mask = np.zeros((20, 40), np.bool_)
    mask[:, :3] = True  # 300 of 4000 pixels: a column of tiles, and a third of the next
    tissue = read_mask_of(mask)
    assert set(grid_spots(slide, SIZE, (1, 1), 0.5, None, tissue).grid_rc[:, 1]) == {0}
    wide = grid_spots(slide, SIZE, (1, 1), 0.5, None, tissue, 0.25)
    assert set(wide.grid_rc[:, 1]) == {0, 1}
    # 2000 = 8 x 224 + 208 and 4000 = 17 x 224 + 192: most of the next tiles is on the slide
    note = grid_spots(slide, SIZE, (1, 1), 0.5, None, whole_slide_mask(slide)).note
    # 17 below, 8 to the right, and the corner
    assert note.startswith("26 tiles at the right or lower edge")


def read_mask_of(mask: np.ndarray) -> Any:
    from triplex_deploy.spots import TissueMask

    return TissueMask(mask, (SIZE[0] / mask.shape[1], SIZE[1] / mask.shape[0]))
