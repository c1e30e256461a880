"""Mutated slides and spots files: pixels or a typed error, never a crash or a hang."""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.slides.tiled_tiff import write_slide
from triplex_deploy.errors import SpotsError, TriplexError
from triplex_deploy.slides import open_slide
from triplex_deploy.spots import read_spots
from triplex_deploy.tiles import SlideView, plan_tiles, stream_tiles

MAX_SECONDS = 10.0
"""Longest time that a mutation may take on a busy machine."""

BOUNDED = settings(
    max_examples=60,
    derandomize=True,  # the same mutations in every run
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
mutations = st.lists(
    st.tuples(
        # where, as a share of the file; directories lie at its beginning
        st.one_of(st.floats(0, 0.03), st.floats(0, 1, exclude_max=True)),
        st.one_of(st.binary(min_size=1, max_size=8), st.just(bytes(64)), st.just(b"\xff" * 16)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    kinds = ("jpeg 4:2:0", "svs jpeg", "svs 33005")
    return {
        kind: write_slide(folder / "slide.tif", kind, sizes=((300, 260), (150, 130))).read_bytes()
        for kind in kinds
    }


def mutated(original: bytes, changes: list[tuple[float, bytes]], cut: float) -> bytes:
    data = bytearray(original)
    for place, new in changes:
        start = int(place * len(data))
        data[start : start + len(new)] = new
    return bytes(data[: max(8, int(len(data) * cut))])


def read_everything(path: Path) -> None:
    """Open, read across the edges, and stream with and without skipping."""
    with open_slide(path) as slide:
        for level, (width, height) in enumerate(slide.level_sizes):
            if width * height < 1 << 22:
                assert slide.read(level, -3, -3, width + 6, height + 6).dtype == np.uint8
        view = SlideView.open(slide, 0.5, 0.5)
        plan = plan_tiles(np.array([[112, 112], [250, 200]]), view.size_wh)
        for batch in stream_tiles(view, plan, 8, on_bad_tile="skip"):
            assert batch.tiles.shape[1:] == (224, 224, 3)


@BOUNDED
@given(
    kind=st.sampled_from(["jpeg 4:2:0", "svs jpeg", "svs 33005"]),
    changes=mutations,
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_slides(
    originals: dict[str, bytes],
    tmp_path: Path,
    kind: str,
    changes: list[tuple[float, bytes]],
    cut: float,
) -> None:
    logging.disable(logging.CRITICAL)
    path = tmp_path / "mutated.tif"
    path.write_bytes(mutated(originals[kind], changes, cut))
    start, message = time.monotonic(), "mutated.tif"
    try:
        read_everything(path)
    except TriplexError as error:
        message = str(error)
    finally:
        logging.disable(logging.NOTSET)
    assert time.monotonic() - start < MAX_SECONDS
    assert "mutated.tif" in message
    assert "\n" not in message


TABLE = "pixel_x\tpixel_y\tx\ty\n100.5\t200\t1\t1\n391\t205\t2.01\t0.99\n400\t500\t2\t2\n"


@BOUNDED
@given(changes=mutations, cut=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_mutated_spots_files(
    tmp_path: Path, changes: list[tuple[float, bytes]], cut: float
) -> None:
    path = tmp_path / "spots.tsv"
    path.write_bytes(mutated(TABLE.encode(), changes, cut))
    check_spots_file(path)


cells = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.sampled_from(["", "NA", "1e400", "é", '"', "1,5", " 7 ", "0x10", "-0"]),
)


@BOUNDED
@given(
    header=st.permutations(["pixel_x", "pixel_y", "array_row", "array_col", "x", "y", "z"]),
    columns=st.integers(0, 7),
    rows=st.lists(st.lists(cells, max_size=8), max_size=6),
    separator=st.sampled_from([",", "\t", ";"]),
)
def test_made_up_spots_files(
    tmp_path: Path, header: list[str], columns: int, rows: list[list[str]], separator: str
) -> None:
    path = tmp_path / "spots.csv"
    lines = [separator.join(header[:columns]), *(separator.join(row) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    check_spots_file(path)


def check_spots_file(path: Path) -> None:
    try:
        spots = read_spots(path)
    except SpotsError as error:
        message = str(error)
    else:
        message = ""
        assert spots.level0_xy.shape == spots.grid_rc.shape
        assert np.isfinite(spots.level0_xy).all()
    assert "\n" not in message
