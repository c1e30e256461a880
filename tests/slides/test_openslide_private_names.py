"""The private names of openslide-python that one file uses exist in the tested versions."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tifffile
from openslide import lowlevel

import triplex_deploy
from triplex_deploy.errors import SlideError
from triplex_deploy.slides.openslide_pixels import TESTED_VERSIONS, OpenSlideHandle

PACKAGE = Path(triplex_deploy.__file__).parent


def test_the_installed_version_is_a_tested_one() -> None:
    assert version("openslide-python") in TESTED_VERSIONS, (
        "run the tests of slides with this version, then add it to TESTED_VERSIONS"
    )


@pytest.mark.parametrize("name", ["_lib", "open", "set_cache", "cache_create"])
def test_a_version_without_the_names_is_refused_with_a_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(16, 16), photometric="rgb")
    monkeypatch.delattr(lowlevel, name)
    with pytest.raises(SlideError, match=f"{name}.*pip install openslide-python==1.4.7"):
        OpenSlideHandle(tmp_path / "slide.tif", 1 << 20)


def test_no_other_file_uses_them() -> None:
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "lowlevel" in path.read_text(encoding="utf-8")
    ]
    assert users == ["slides/openslide_pixels.py"]
