"""Damaged files: a typed error that names slide, level and tile, or zeros on request."""

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.slides.tiled_tiff import overwrite, tile_place, write_slide
from triplex_deploy.errors import SlideError
from triplex_deploy.slides import open_slide
from triplex_deploy.slides.direct_tiff import DirectTiffReader
from triplex_deploy.slides.openslide_reader import OpenSlideReader
from triplex_deploy.tiles import SlideView, plan_tiles, stream_tiles
from triplex_deploy.tiles.stream import StreamStats

BAD = 8
"""A tile in the second column of the second row; the slide is 6 tiles wide."""


@pytest.fixture(params=["direct", "openslide"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    if request.param == "direct":
        return DirectTiffReader
    monkeypatch.setattr("triplex_deploy.slides.direct_tiff.VENDORS", ())
    return OpenSlideReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.tif")


def stream(slide, **options):
    """Return level 0 as the stream shows it, and the stream's counts."""
    view = SlideView.open(slide, 0.5, 0.5)
    width, height = view.size_wh
    x, y = np.meshgrid(np.arange(112, width, 224), np.arange(112, height, 224))
    plan = plan_tiles(np.stack([x.ravel(), y.ravel()], axis=1), view.size_wh)
    stats = StreamStats()
    shown = np.zeros((height + 500, width + 500, 3), np.uint8)
    for batch in stream_tiles(view, plan, 4, stats=stats, **options):
        for index, tile in zip(batch.tile_index, batch.tiles, strict=True):
            left, top = plan.origins_xy[index]
            if left >= 0 and top >= 0:
                shown[top : top + 224, left : left + 224] = tile
    return shown[:height, :width], stats


def damage(path: Path, how: str) -> None:
    offset, count = tile_place(path, BAD)
    if how == "zeros":
        overwrite(path, offset, bytes(count))
    elif how == "noise":
        overwrite(path, offset, np.random.default_rng(0).bytes(count))
    elif how == "header":
        overwrite(path, offset, bytes(40))
    else:
        with path.open("r+b") as file:
            file.truncate(offset + count // 2)


@pytest.mark.parametrize("how", ["zeros", "noise", "header"])
def test_a_corrupt_tile_is_named(path: Path, reader: type, how: str) -> None:
    damage(path, how)
    with open_slide(path) as slide:
        assert type(slide) is reader
        with pytest.raises(SlideError, match=r"slide\.tif: level 0, tile \(column 2, row 1\)"):
            stream(slide)


def test_a_corrupt_tile_is_zero_and_everything_else_intact(path: Path, reader: type) -> None:
    with open_slide(path) as slide:
        expected, _ = stream(slide)
    damage(path, "noise")
    with open_slide(path) as slide:
        shown, stats = stream(slide, on_bad_tile="skip")
    side = slide.segment_grid(0).width_px
    row, column = divmod(BAD, 6)
    y, x = row * 128 // side * side, column * 128 // side * side
    expected[y : y + side, x : x + side] = 0
    np.testing.assert_array_equal(shown, expected)
    assert len(stats.bad_tiles) == 1
    assert "slide.tif" in stats.bad_tiles[0].error


def test_a_tile_cut_off_in_the_middle_is_named(path: Path) -> None:
    """libjpeg would fill the rest with gray and only warn."""
    offset, count = tile_place(path, BAD)
    overwrite(path, offset + count // 2, b"\xff\xd9" + b"\xff" * (count - count // 2 - 2))
    overwrite(path, offset + count // 2, b"\xff\x01")
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"tile \(column 2, row 1\)"):
        stream(slide)


def test_a_file_truncated_while_open_is_named(path: Path, reader: type) -> None:
    with open_slide(path) as slide:
        damage(path, "truncate")
        with pytest.raises(SlideError, match=r"slide\.tif: level 0, tile \(column \d, row \d\)"):
            stream(slide)
        shown, stats = stream(slide, on_bad_tile="skip")
        assert stats.bad_tiles
        if reader is DirectTiffReader:  # OpenSlide would have to read the lost directory again
            assert shown[:128, :128].any()


def test_a_truncated_file_is_refused_on_opening(path: Path) -> None:
    """The file's directory is behind the pixels, so it is lost."""
    damage(path, "truncate")
    with pytest.raises(SlideError, match=r"slide\.tif"):
        open_slide(path)


@pytest.mark.parametrize("then", ["nothing", "another file"])
def test_a_vanished_file_never_shows_another_ones_pixels(
    path: Path, reader: type, then: str, tmp_path: Path
) -> None:
    """The direct reader keeps the file open; OpenSlide opens the path again."""
    with open_slide(path) as slide:
        expected, _ = stream(slide)
        path.unlink()
        if then == "another file":
            write_slide(tmp_path / "other.tif", seed=1).rename(path)
        if reader is DirectTiffReader:
            np.testing.assert_array_equal(stream(slide)[0], expected)
            return
        with pytest.raises(SlideError, match=r"slide\.tif: the file (went away|was replaced)"):
            stream(slide)


def test_reading_that_the_system_refuses_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens when a network folder or a disk disappears."""

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with open_slide(path) as slide:
        monkeypatch.setattr("triplex_deploy.slides.direct_tiff.os.pread", refuse)
        with pytest.raises(SlideError, match=r"slide\.tif: level 0, tile .*Input/output error"):
            stream(slide)


def test_faults_leak_no_files_and_no_threads(path: Path, reader: type) -> None:
    damage(path, "noise")
    counts = []
    for _ in range(4):
        with open_slide(path) as slide:
            for _ in range(3):
                with pytest.raises(SlideError):
                    stream(slide)
            stream(slide, on_bad_tile="skip")
        counts.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
    assert counts[0] == counts[-1]


def test_a_closed_slide_is_an_error_even_when_skipping(path: Path, reader: type) -> None:
    slide = open_slide(path)
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        stream(slide, on_bad_tile="skip")
