"""The private names of openslide-python that one file uses exist in the tested versions."""

import ctypes
from importlib.metadata import version
from pathlib import Path

from openslide import lowlevel

import triplex_deploy
from triplex_deploy.slides.openslide_pixels import TESTED_VERSIONS

PACKAGE = Path(triplex_deploy.__file__).parent


def test_the_installed_version_is_a_tested_one() -> None:
    assert version("openslide-python") in TESTED_VERSIONS, (
        "run the tests of slides with this version, then add it to TESTED_VERSIONS"
    )


def test_the_names_are_there() -> None:
    assert ctypes.cast(lowlevel._lib.openslide_read_region, ctypes.c_void_p).value
    for name in ("open", "close", "get_error", "set_cache", "cache_create"):
        assert callable(getattr(lowlevel, name))


def test_no_other_file_uses_them() -> None:
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "lowlevel" in path.read_text(encoding="utf-8")
    ]
    assert users == ["slides/openslide_pixels.py"]
