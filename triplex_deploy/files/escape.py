"""Make text of files harmless for the place where it is shown: one function for each place.

Names of files, genes and barcodes are chosen by others. They may hold terminal escapes, line
breaks, formulas of a spreadsheet, or characters that a format forbids. HTML is escaped by the
templates, see ``outputs.page``; JSON and GeoJSON by ``json``.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Sequence
from typing import Final

_DIRECTION: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e")
_ISOLATES: Final = frozenset("\u2066\u2067\u2068\u2069")
_HARMFUL: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode's categories of controls, halves of characters, and breaks of lines and paragraphs."""
_NOT_IN_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Starts of a cell that a spreadsheet runs as a formula."""
_MAX_CHARACTERS: Final = 200


def printable(text: str) -> str:
    """Return text for one line of a terminal or a log, with control characters as ``\\x1b``.

    Characters that end a line, turn the direction of text, or have no encoding count, too.
    """
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character in _DIRECTION or character in _ISOLATES or is_control(character):
        return character.encode("unicode_escape").decode("ascii")
    return character


def encodable(text: str) -> str:
    """Return text that UTF-8 can hold; bytes that were not UTF-8 become ``\\udce9``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_control(character: str) -> bool:
    """Return True for a control character, half a character, or a break of lines."""
    return unicodedata.category(character) in _HARMFUL


def control_in(text: str) -> bool:
    """Return True if text holds a character that no name of a gene or spot may hold."""
    return any(map(is_control, text)) or _NOT_IN_XML.search(text) is not None


def short_repr(value: object) -> str:
    """Return ``repr`` of a value in at most 200 characters, without reading all of the value.

    Lists that hold a list many times, as aliases of YAML make them, are never expanded.
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of too many digits
        return f"{type(value).__name__} that is too long to show"
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names as a list in words, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def xml_text(text: str) -> str:
    """Return text without the characters that XML 1.0 forbids; each becomes U+FFFD."""
    return _NOT_IN_XML.sub("\ufffd", text)


def csv_cell(text: str) -> str:
    """Return text that no spreadsheet runs: ``'`` is put before ``=``, ``+``, ``-`` and ``@``."""
    return f"'{text}" if text.startswith(_FORMULA) else text


_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MAX_CHARACTERS
