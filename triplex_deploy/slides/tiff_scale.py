"""Read the microns per pixel from the metadata of a TIFF."""

from __future__ import annotations

from math import prod
from typing import Any
from xml.etree import ElementTree

from triplex_deploy.slides.mpp import plausible_mpp_xy
from triplex_deploy.slides.slide import Size

MICROMETERS = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "Å": 1e-4,
    "in": 25400.0,
}
RESOLUTION_UNIT_UM = {2: 25400.0, 3: 10000.0}
"""ResolutionUnit inch and centimeter; with unit 1 the numbers give only an aspect ratio."""


def ome_mpp_xy(ome_xml: str | None, image: int, size_wh: Size) -> tuple[float, float] | None:
    """Return PhysicalSizeX and Y of one image of an OME-XML document, in microns, unchecked.

    Args:
        ome_xml: The document, or None.
        image: Number of the image in the file.
        size_wh: Width and height of the image. If the document gives another size under its
            number, the only image of this size counts, since documents may list images that the
            file lacks.

    Returns:
        The scale, or None if the document gives none.
    """
    listed = _ome_pixels(ome_xml)
    fitting = [pixels for pixels in listed if _declared_size(pixels) == size_wh]
    if image < len(listed) and listed[image] in fitting:
        pixels = listed[image]
    elif len(fitting) == 1:
        pixels = fitting[0]
    else:
        return None
    x = _length(pixels, "PhysicalSizeX")
    y = _length(pixels, "PhysicalSizeY")
    if x is None and y is None:
        return None
    return (x if x is not None else y), (y if y is not None else x)  # type: ignore[return-value]


def ome_planes(ome_xml: str | None) -> int:
    """Return how many planes an OME-XML document declares for its largest image; 0 if unknown."""
    return max((_declared_planes(pixels) for pixels in _ome_pixels(ome_xml)), default=0)


def _ome_pixels(ome_xml: str | None) -> list[dict[str, str]]:
    """Return the attributes of each image's Pixels; empty if the document cannot be read."""
    if not ome_xml:
        return []
    try:
        found = ElementTree.fromstring(ome_xml).findall("{*}Image/{*}Pixels")
    except (ElementTree.ParseError, LookupError, ValueError):  # also an unknown encoding
        return []
    return [pixels.attrib for pixels in found]


def _declared_size(pixels: dict[str, str]) -> Size | None:
    try:
        return int(pixels["SizeX"]), int(pixels["SizeY"])
    except (KeyError, ValueError):
        return None


def _declared_planes(pixels: dict[str, str]) -> int:
    try:
        return prod(int(pixels.get(name, 1)) for name in ("SizeZ", "SizeC", "SizeT"))
    except ValueError:
        return 0


def tag_mpp_xy(page: Any) -> tuple[float, float] | None:
    """Return the scale from XResolution and YResolution; None if absent or implausible."""
    unit = page.tags.valueof("ResolutionUnit", 2)
    unit_um = RESOLUTION_UNIT_UM.get(unit) if isinstance(unit, int) else None
    x = _ratio(page.tags.valueof("XResolution"))
    y = _ratio(page.tags.valueof("YResolution"))
    if unit_um is None or not x or not y:
        return None
    return plausible_mpp_xy(unit_um / x, unit_um / y)


def _length(pixels: dict[str, str], name: str) -> float | None:
    unit_um = MICROMETERS.get(pixels.get(f"{name}Unit", "µm"))
    try:
        value = float(pixels[name])
    except (KeyError, ValueError):
        return None
    return value * unit_um if unit_um is not None and value > 0 else None


def _ratio(value: Any) -> float:
    """Return the quotient of a tag's two numbers; 0 if it is absent or damaged."""
    try:
        numerator, denominator = value[:2]
        return float(numerator / denominator)
    except (TypeError, ValueError, ArithmeticError):
        return 0.0
