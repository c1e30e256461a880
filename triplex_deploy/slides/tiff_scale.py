"""Read the micrometers per pixel from the metadata of a TIFF."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from triplex_deploy.slides.mpp import plausible_mpp_xy

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


def ome_mpp_xy(ome_xml: str | None, image: int) -> tuple[float, float] | None:
    """Return PhysicalSizeX and Y of one image of an OME-XML document, in micrometers, unchecked."""
    if not ome_xml:
        return None
    try:
        pixels = ElementTree.fromstring(ome_xml).findall("{*}Image/{*}Pixels")[image].attrib
    except (ElementTree.ParseError, LookupError, ValueError):  # also an unknown encoding
        return None
    x = _length(pixels, "PhysicalSizeX")
    y = _length(pixels, "PhysicalSizeY")
    if x is None and y is None:
        return None
    return (x if x is not None else y), (y if y is not None else x)  # type: ignore[return-value]


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
