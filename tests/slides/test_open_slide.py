"""Files that are not slides, and damaged slides."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from triplex_deploy.errors import SlideError
from triplex_deploy.slides import open_slide


def noise(height: int = 256, width: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def read_all(path: Path) -> None:
    with open_slide(path) as slide:
        slide.read(0, 0, 0, *slide.level_sizes[0])


def test_text_file_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("just some text\n" * 100)
    with pytest.raises(SlideError, match=r"notes\.svs: not a slide; pass"):
        open_slide(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"absent\.svs: no such file"):
        open_slide(tmp_path / "absent.svs")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="is a folder"):
        open_slide(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.tif"
    path.touch()
    with pytest.raises(SlideError, match="empty"):
        open_slide(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_truncated_image_is_an_error(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise()).save(path)
    with pytest.raises(SlideError, match=r"cut\."):
        read_all(cut(path, share))


@pytest.mark.parametrize("compression", [None, "jpeg", "lzw"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.97])
def test_truncated_tiff_is_an_error(compression: str | None, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, noise(), photometric="rgb", rowsperstrip=16, compression=compression)
    with pytest.raises(SlideError, match=r"cut\.tif"):
        read_all(cut(path, share))


def test_damaged_strip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, noise(), photometric="rgb", rowsperstrip=16, compression="zlib")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"damaged\.tif"):
        read_all(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_svs_is_an_error(share: float, tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "cut.svs"
    path.write_bytes((shared_data / "slides/CMU-1-Small-Region.svs").read_bytes())
    with pytest.raises(SlideError, match=r"cut\.svs"):
        read_all(cut(path, share))


def test_svs_with_lost_tiles_is_an_error(tmp_path: Path, shared_data: Path) -> None:
    """The directory is there but points beyond the end of the file."""
    data = bytearray((shared_data / "slides/CMU-1-Small-Region.svs").read_bytes())
    path = tmp_path / "holes.svs"
    data[4096:200_000] = bytes(200_000 - 4096)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"holes\.svs"):
        read_all(path)


def test_read_failure_names_the_file_and_lasts(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/openslide_unreadable.svs") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"openslide_unreadable\.svs: reading 16x16"):
                slide.read(0, 0, 0, 16, 16)


def test_other_files_of_a_dataset_are_no_slides(shared_data: Path) -> None:
    with pytest.raises(SlideError, match="not a slide"):
        open_slide(shared_data / "visium/squidpy_test/test_data.h5ad")
