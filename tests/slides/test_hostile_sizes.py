"""Files that would hang, exhaust memory or end the process: one error each, and quickly."""

import logging
import os
import socket
import struct
import time
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slides.tiled_tiff import write_slide
from triplex_deploy.errors import SlideError
from triplex_deploy.slides import first_look, memory, open_slide

MAX_SECONDS = 10.0
"""Longest time until such a file is refused, on a busy machine."""


@pytest.fixture(autouse=True)
def in_time() -> object:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < MAX_SECONDS


def with_tag(path: Path, tag: str, value: int) -> Path:
    """Set the value, or for lists the first value, of a tag of the first page."""
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages[0].aspage().tags[tag]
        place = entry.valueoffset
        size = {3: "<H", 4: "<I"}[int(entry.dtype)]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack(size, value))
    return path


@pytest.mark.parametrize("kind", ["jpeg 4:2:0", "svs jpeg", "svs 33005"])
@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ("TileWidth", 0xFFFF, "tiles of 65535x"),
        ("TileByteCounts", 0xFFFFFFF0, "tile of 4294967280 bytes in a file of"),
    ],
)
def test_a_size_that_a_native_library_would_allocate_is_refused(
    kind: str, tag: str, value: int, reason: str, tmp_path: Path
) -> None:
    path = with_tag(write_slide(tmp_path / "slide.tif", kind), tag, value)
    if tag == "TileWidth":
        with_tag(path, "TileLength", 0xFFFF)
    with pytest.raises(SlideError, match=reason):
        open_slide(path)


def test_a_file_that_ends_the_process_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import os; os.abort()")
    path = write_slide(tmp_path / "slide.tif")
    with monkeypatch.context() as patch:
        patch.setattr(first_look, "CHILD", child)
        with pytest.raises(SlideError, match=r"slide\.tif: .*SIGABRT.*copy it again"):
            open_slide(path)
    open_slide(path).close()


def test_a_library_that_does_not_answer_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(first_look, "CHILD", child)
    monkeypatch.setattr(first_look, "MAX_SECONDS", 0.5)
    with pytest.raises(SlideError, match="does not answer"):
        open_slide(write_slide(tmp_path / "slide.tif"))


def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    monkeypatch.setattr(first_look, "_run", looks.append)
    path = write_slide(tmp_path / "slide.tif")
    open_slide(path).close()
    open_slide(path).close()
    write_slide(path, seed=9)
    open_slide(path).close()
    assert len(looks) == 2


def test_pipes_devices_and_sockets_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "device.svs").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.svs"))
        for name in ("pipe", "device", "socket"):
            with pytest.raises(SlideError, match=f"{name}.svs: is a {name}"):
                open_slide(tmp_path / f"{name}.svs")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "x\0y"):
        with pytest.raises(SlideError, match="check the path"):
            open_slide(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tif"))
    write_slide(path)
    with open_slide(path) as slide:
        assert slide.level_sizes[0] == (700, 500)


@pytest.mark.parametrize("planes", [10**9, 10**12])
@pytest.mark.parametrize("axis", ["SizeZ", "SizeC", "SizeT"])
def test_ome_metadata_with_more_planes_than_the_file_holds(
    axis: str, planes: int, tmp_path: Path
) -> None:
    sizes = {"SizeZ": 1, "SizeC": 3, "SizeT": 1, axis: planes}
    attributes = " ".join(f'{name}="{value}"' for name, value in sizes.items())
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="64" SizeY="64" {attributes}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        "<TiffData/></Pixels></Image></OME>"
    )
    path = tmp_path / "stack.ome.tif"
    pixels = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", description=xml, metadata=None)
    with pytest.raises(SlideError, match="more than the file can hold"):
        open_slide(path)


def test_imagej_metadata_with_more_planes_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    pixels = np.zeros((64, 64), np.uint8)
    description = "ImageJ=1.11a\nimages=1000000000\nslices=1000000000\n"
    tifffile.imwrite(path, pixels, description=description, metadata=None)
    with pytest.raises(SlideError, match="more than the file can hold"):
        open_slide(path)


def test_a_slide_with_nearly_all_tiles_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            chain([np.zeros((64, 64, 3), np.uint8)], repeat(None)),
            shape=(64 * 120, 64 * 120, 3),
            dtype=np.uint8,
            tile=(64, 64),
            photometric="rgb",
        )
    with pytest.raises(SlideError, match="holds 1 of 14400 tiles"):
        open_slide(path)


@pytest.mark.parametrize("name", ["strip.tif", "image.png", "image.jpg"])
def test_pictures_that_do_not_fit_in_memory_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((400, 300, 3), np.uint8)
    if name == "strip.tif":
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", rowsperstrip=400)
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.setattr(memory, "LARGE_BYTES", 100_000)
    with caplog.at_level(logging.WARNING):
        open_slide(tmp_path / name).close()
    assert "300x400 pixels are decoded at once, which takes 0.0 GB of memory" in caplog.text
    monkeypatch.setattr(memory, "free_memory", lambda: 200_000)
    with pytest.raises(SlideError, match=r"GB are free; convert it to a tiled TIFF"):
        open_slide(tmp_path / name)


def test_the_memory_that_is_free_is_known_on_linux() -> None:
    free = memory.free_memory()
    assert free is None or 0 < free < 1 << 50


def test_metadata_that_are_cut_off_are_noticed(tmp_path: Path) -> None:
    """Without its OME metadata the file would be another slide, one without a scale."""
    path = tmp_path / "slide.ome.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS"})
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].aspage().tags[270].valueoffset
    content = path.read_bytes()
    moved = content[:place] + bytes(len(tif.ome_metadata or "")) + content[place:]
    entry = content.find((270).to_bytes(2, "little"))
    for data in (content[: place + 5], patched(moved, entry + 8, len(moved) - 5)):
        path.write_bytes(data)
        with pytest.raises(SlideError, match="copy"):
            open_slide(path)


def patched(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]
