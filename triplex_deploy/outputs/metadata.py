"""Turn the metadata of a run into labels and text for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

UNITS: Final = {
    "_s": "s",
    "_mb": "MB",
    "_gb": "GB",
    "_um": "µm",
    "_mm": "mm",
    "_px": "px",
    "mpp": "µm/px",
}
"""Unit of a value, by the end of its key."""
TOTAL: Final = "total"
"""Name of the stage that is the whole run."""
ACRONYMS: Final = {
    "id": "ID",
    "mpp": "scale",
    "mb": "MB",
    "level0": "level-0",
    "gpu": "GPU",
    "cpu": "CPU",
    "fp16": "FP16",
}
"""Spelling of words of a key that are not plain words."""


@dataclass(frozen=True)
class MetadataRow:
    """One row of a table of metadata."""

    label: str
    """Name of the value, in words."""
    value: str
    """Text of the value, with its unit."""


@dataclass(frozen=True)
class Stage:
    """One stage of the run."""

    label: str
    """Name of the stage."""
    seconds: str
    """Wall time, with its unit."""
    part: float | None
    """Share of the total, 0 to 1; None for the total."""


def format_metadata(run: Mapping[str, Any]) -> list[MetadataRow]:
    """Return a row for each plain value, without timings and groups."""
    return [_row(key, value) for key, value in run.items() if not isinstance(value, Mapping)]


def grouped_metadata(run: Mapping[str, Any]) -> dict[str, list[MetadataRow]]:
    """Return the rows of each group, such as versions, by its label; empty groups are left out."""
    return {
        _label(key): [MetadataRow(str(name), _text(value)) for name, value in group.items()]
        for key, group in run.items()
        if isinstance(group, Mapping) and group and not _is_timings(key)
    }


def stages(run: Mapping[str, Any]) -> list[Stage]:
    """Return the wall time of each stage, in the order of the run."""
    timings = {
        str(name): float(value)
        for key, group in run.items()
        if isinstance(group, Mapping) and _is_timings(key)
        for name, value in group.items()
        if isinstance(value, int | float)
    }
    total = timings.get(TOTAL) or sum(timings.values()) or 1.0
    return [
        Stage(
            label=_label(name.removesuffix("_s")),
            seconds=f"{seconds:,.2f} s",
            part=None if name == TOTAL else seconds / total,
        )
        for name, seconds in timings.items()
    ]


def _is_timings(key: str) -> bool:
    return key.startswith("timings")


def _row(key: str, value: Any) -> MetadataRow:
    if key.endswith("_per_s"):
        return MetadataRow(_label(key.removesuffix("s") + "second"), _text(value))
    for ending, unit in UNITS.items():
        if "_per_" not in key and key.endswith(ending) and isinstance(value, int | float):
            label = key if ending == "mpp" else key.removesuffix(ending)
            return MetadataRow(_label(label), f"{_text(value)} {unit}")
    return MetadataRow(_label(key), _text(value))


def _label(key: str) -> str:
    words = [ACRONYMS.get(word, word) for word in key.removeprefix("n_").split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)
