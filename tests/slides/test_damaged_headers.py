"""Damaged headers: whatever the reader's library raises becomes ``SlideError`` with a remedy."""

import io
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slides.tiled_tiff import write_slide
from triplex_deploy.errors import SlideError, TriplexError
from triplex_deploy.slides import open_slide, thumbnail, tiff_pages
from triplex_deploy.slides.image_reader import ImageReader
from triplex_deploy.slides.tiff_reader import TiffReader

BYTE, ASCII, SHORT, LONG, RATIONAL = 1, 2, 3, 4, 5
ENTRIES = {
    "a pair": (SHORT, 2, struct.pack("<HH", 8, 9)),
    "a list of bytes": (BYTE, 4, b"\1\2\3\4"),
    "text": (ASCII, 4, b"abc\0"),
    "a fraction": (RATIONAL, 1, struct.pack("<I", 8)),
    "nothing": (SHORT, 0, bytes(4)),
    "zero": (LONG, 1, bytes(4)),
    "the largest number": (LONG, 1, b"\xff" * 4),
    "an absurd count": (LONG, 0xFFFFFF, struct.pack("<I", 8)),
    "an unknown type": (99, 1, bytes(4)),
}
"""Type, count and value of an entry of a TIFF directory that replaces the right one."""
ERRORS = [
    TypeError,
    AttributeError,
    AssertionError,
    IndexError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    ZeroDivisionError,
    struct.error,
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def write_tiff(path: Path, kind: str) -> Path:
    pixels = (np.arange(96 * 80 * 3) % 251).reshape(96, 80, 3).astype(np.uint8)
    if kind == "strips":
        tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=16, resolution=(20, 20))
    elif kind == "planes":
        planes = np.moveaxis(pixels, 2, 0)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(16, 16))
    elif kind == "alpha":
        rgba = np.concatenate([pixels, pixels[..., :1]], axis=2)
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    else:
        write_slide(path, kind, sizes=((160, 140),))
    return path


def entries_of(path: Path) -> dict[str, int]:
    """Offset of each entry of the first directory by the tag's name."""
    with tifffile.TiffFile(path) as tif:
        return {tag.name: tag.offset for tag in tif.pages[0].aspage().tags.values()}


def replace_entry(data: bytes, offset: int, entry: tuple[int, int, bytes]) -> bytes:
    kind, count, value = entry
    damaged = bytearray(data)
    damaged[offset + 2 : offset + 12] = struct.pack("<HI", kind, count) + value
    return bytes(damaged)


def message_of(path: Path, open_it: Any = open_slide) -> str:
    """Open and read; the error's message, or "" if the file can still be read."""
    try:
        with open_it(path) as slide:
            width, height = slide.level_sizes[0]
            slide.read(0, 0, 0, min(width, 400), min(height, 400))
            thumbnail(slide, 64, skip_bad=True)
    except SlideError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["jpeg 4:2:0", "svs jpeg", "svs 33005"])
@pytest.mark.parametrize(
    ("tag", "entry"),
    [("BitsPerSample", "a fraction"), ("TileWidth", "a pair"), ("TileLength", "a pair")],
)
def test_a_pair_instead_of_a_number_is_named(
    kind: str, tag: str, entry: str, tmp_path: Path
) -> None:
    """tifffile raises a bare ``TypeError`` for these."""
    path = write_tiff(tmp_path / "slide.tif", kind)
    path.write_bytes(replace_entry(path.read_bytes(), entries_of(path)[tag], ENTRIES[entry]))
    with pytest.raises(SlideError, match=r"slide\.tif: .*(copy it again|the copy is complete)"):
        TiffReader.open(path)


@pytest.mark.parametrize(
    "kind", ["jpeg 4:2:0", "svs jpeg", "svs 33005", "strips", "planes", "alpha"]
)
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_damaged_entry_of_a_tiff_escapes(kind: str, entry: str, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", kind)
    data, entries = path.read_bytes(), entries_of(path)
    refused = set()
    for tag, offset in entries.items():
        path.write_bytes(replace_entry(data, offset, ENTRIES[entry]))
        for open_it in (open_slide, TiffReader.open):
            message = message_of(path, open_it)
            assert "\n" not in message
            assert message == "" or (message.startswith(f"{path}: ") and "; " in message), tag
            refused |= {tag} if message else set()
    assert {"ImageWidth", "ImageLength"} <= refused


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_no_damaged_byte_of_an_image_escapes(suffix: str, tmp_path: Path) -> None:
    picture, stream = Image.new("RGB", (40, 30), (200, 120, 160)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 1
    picture.save(stream, "PNG" if suffix == "png" else "JPEG", dpi=(300, 300), exif=exif)
    path, data = tmp_path / f"image.{suffix}", stream.getvalue()
    for at in range(8, min(len(data), 240)):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            message = message_of(path)
            assert message == "" or message.startswith(f"{path}: ")


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_tifffile_is_typed(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "slide.tif", "strips")

    def fail(*_: object, **__: object) -> None:
        raise error("in the\nlibrary")

    with open_slide(path) as slide:
        monkeypatch.setattr(slide._pages[0].tiff, "decode", fail)  # type: ignore[attr-defined]
        with pytest.raises(
            SlideError, match=r"slide\.tif: .*in the library.*; the file is damaged"
        ):
            slide.read(0, 0, 0, 8, 8)
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    with pytest.raises(SlideError, match=r"slide\.tif: not a readable TIFF: .*in the library; "):
        open_slide(path)


@pytest.mark.parametrize("shape", [(1, 15, 80, 3), (1, 16, 79, 3), (1, 16, 80, 4), (16, 80, 3)])
def test_a_strip_of_another_shape_is_named(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object, **__: object) -> tuple[np.ndarray, None, tuple[int, ...]]:
        return np.zeros(shape, np.uint8), None, (1, *shape)

    with open_slide(write_tiff(tmp_path / "slide.tif", "strips")) as slide:
        monkeypatch.setattr(slide._pages[0].tiff, "decode", decode)  # type: ignore[attr-defined]
        with pytest.raises(SlideError, match=r"slide\.tif: decoding part 0 .* it has the shape"):
            slide.read(0, 0, 0, 8, 8)


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_a_decoder_is_typed(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with open_slide(write_tiff(tmp_path / "slide.tif", "jpeg 4:2:0")) as slide:
        monkeypatch.setattr("imagecodecs.jpeg8_decode", fail)
        with pytest.raises(SlideError, match=rf"level 0, tile .*{error.__name__}; the file is"):
            slide.read_segment(0, 0, 0, np.empty((128, 128, 3), np.uint8))


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_pillow_is_typed(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path)

    def fail(*_: object) -> None:
        raise error

    with open_slide(path) as slide:
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        with pytest.raises(SlideError, match=rf"not a readable PNG: {error.__name__}; the file is"):
            slide.read(0, 0, 0, 8, 8)


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_openslide_while_opening_is_typed(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "slide.svs", "svs jpeg")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("openslide.OpenSlide.__init__", fail)
    with pytest.raises(SlideError, match=rf"cannot be opened as a slide: {error.__name__}; check"):
        open_slide(path)


def test_a_bug_of_this_package_is_not_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image = write_tiff(tmp_path / "slide.tif", "strips"), tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)

    def fail(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(tiff_pages, "_is_rgb_or_gray", fail)
    monkeypatch.setattr(ImageReader, "__init__", fail)
    for file in (path, image):
        with pytest.raises(TypeError, match="a bug"):
            open_slide(file)


def test_a_window_without_memory_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 TiB")

    with open_slide(write_tiff(tmp_path / "slide.tif", "strips")) as slide:
        monkeypatch.setattr(slide, "_read_inside", fail)
        with pytest.raises(SlideError, match="Unable to allocate 3 TiB; read a smaller window"):
            slide.read(0, 0, 0, 8, 8)


def test_an_absurd_side_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", "jpeg 4:2:0")
    offset = entries_of(path)["ImageWidth"]
    entry = (LONG, 1, struct.pack("<I", (1 << 24) + 1))
    path.write_bytes(replace_entry(path.read_bytes(), offset, entry))
    with pytest.raises(TriplexError, match=r"slide\.tif: .*copy it again"):
        open_slide(path)
