"""Look at a slide through OpenSlide in a process of its own, which a damaged file may end.

Run as ``python -I -S first_look_child.py LIBRARY SLIDE``. Only the standard library is imported, so
that the process starts in milliseconds. An error that OpenSlide reports is no reason to fail here:
the process that opens the slide afterwards reports it better.
"""

from __future__ import annotations

import ctypes
import os
import sys

TILE_PX = 256
"""Side of the places that are read of each level."""
THUMBNAIL_PX = 1024
"""Largest side that is read of the coarsest level."""


def main(library: str, slide: bytes) -> None:
    """Find the vendor, open the slide, and read its properties and a few places of each level."""
    functions = _declared(ctypes.CDLL(library))
    if not functions.openslide_detect_vendor(slide):
        return
    handle = functions.openslide_open(slide)
    if not handle or functions.openslide_get_error(handle):
        return
    functions.openslide_get_property_names(handle)
    sizes = []
    for level in range(functions.openslide_get_level_count(handle)):
        width, height = ctypes.c_int64(), ctypes.c_int64()
        functions.openslide_get_level_dimensions(
            handle, level, ctypes.byref(width), ctypes.byref(height)
        )
        sizes.append((width.value, height.value))
    width0, height0 = sizes[0] if sizes else (0, 0)
    places = [
        (level, x, y, TILE_PX, TILE_PX)
        for level in range(len(sizes))
        for x, y in ((0, 0), (width0 // 2, height0 // 2))
    ]
    if sizes:
        shown = tuple(max(1, min(side, THUMBNAIL_PX)) for side in sizes[-1])
        places.append((len(sizes) - 1, 0, 0, shown[0], shown[1]))
    buffer = (ctypes.c_uint32 * (THUMBNAIL_PX * THUMBNAIL_PX))()
    for level, x, y, across, down in places:
        functions.openslide_read_region(handle, buffer, x, y, level, across, down)
        if functions.openslide_get_error(handle):  # OpenSlide then refuses all further reads
            functions.openslide_close(handle)
            handle = functions.openslide_open(slide)
            if not handle or functions.openslide_get_error(handle):
                return


def _declared(functions: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library with the types of the functions that are used."""
    pointer, text, int32, int64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int64
    int64_pointer = ctypes.POINTER(int64)
    for name, result, arguments in (
        ("detect_vendor", text, (text,)),
        ("open", pointer, (text,)),
        ("close", None, (pointer,)),
        ("get_error", text, (pointer,)),
        ("get_property_names", pointer, (pointer,)),
        ("get_level_count", int32, (pointer,)),
        ("get_level_dimensions", None, (pointer, int32, int64_pointer, int64_pointer)),
        ("read_region", None, (pointer, pointer, int64, int64, int32, int64, int64)),
    ):
        function = getattr(functions, f"openslide_{name}")
        function.restype, function.argtypes = result, arguments
    return functions


def _leave_no_core_file() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _leave_no_core_file()
    main(sys.argv[1], os.fsencode(sys.argv[2]))
